#include "outstep/nn/models.h"

#include "outstep/base/errors.h"
#include "outstep/nn/config_values.h"
#include "outstep/nn/gpt2.h"
#include "outstep/nn/mlp.h"
#include "outstep/nn/resnet.h"
#include "outstep/nn/revgpt.h"
#include "outstep/nn/revnet.h"
#include "outstep/nn/revvit.h"
#include "outstep/nn/vgg.h"

namespace outstep::nn {
namespace {

std::unique_ptr<Model> make_named(const std::string& name, io::Section& section,
                                  const ModelFacts& facts) {
  if (name == "gpt2") return std::make_unique<Gpt2>(Gpt2Options::read(section, facts));
  if (name == "revgpt") return std::make_unique<RevGpt>(RevGptOptions::read(section, facts));
  if (name == "revvit") return std::make_unique<RevVit>(RevVitOptions::read(section, facts));
  if (name == "resnet18") return std::make_unique<ResNet>(ResNetOptions::read(section, 18, facts));
  if (name == "resnet34") return std::make_unique<ResNet>(ResNetOptions::read(section, 34, facts));
  if (name == "resnet50") return std::make_unique<ResNet>(ResNetOptions::read(section, 50, facts));
  if (name == "vgg11") return std::make_unique<Vgg>(VggOptions::read(section, 11, facts));
  if (name == "vgg16") return std::make_unique<Vgg>(VggOptions::read(section, 16, facts));
  if (name.starts_with("revnet")) {
    const std::string depth = name.substr(std::string("revnet").size());
    return std::make_unique<RevNet>(
        RevNetOptions::read(section, depth.empty() ? 0 : std::stoi(depth), facts));
  }
  return std::make_unique<Mlp>(MlpOptions::read(section, facts));
}

}  // namespace

std::vector<std::string> model_names() {
  return {"gpt2",   "resnet18", "resnet34", "resnet50", "vgg11",  "vgg16", "revgpt",
          "revvit", "revnet18", "revnet34", "revnet50", "revnet", "mlp"};
}

std::unique_ptr<Model> make_model(io::Section section, const ModelFacts& facts) {
  const std::string otherwise = facts.input_shape.empty() ? "gpt2" : "resnet18";
  const std::string name = section.text("name", otherwise, {.choices = model_names()});
  auto model = make_named(name, section, facts);
  model->label_smoothing = section.number("label_smoothing", 0, {.min = 0, .max = 0.99});
  return model;
}

std::unique_ptr<Model> make_model(const nlohmann::ordered_json& config, const std::string& origin) {
  const auto type = ConfigValues(config, origin).get<std::string>("model_type", "");
  if (type == "gpt2") return std::make_unique<Gpt2>(Gpt2Options::from_hugging_face(config, origin));
  if (type == "outstep_revgpt")
    return std::make_unique<RevGpt>(RevGptOptions::from_config(config, origin));
  if (type == "outstep_resnet")
    return std::make_unique<ResNet>(ResNetOptions::from_config(config, origin));
  if (type == "outstep_revnet")
    return std::make_unique<RevNet>(RevNetOptions::from_config(config, origin));
  if (type == "outstep_revvit")
    return std::make_unique<RevVit>(RevVitOptions::from_config(config, origin));
  if (type == "outstep_vgg") return std::make_unique<Vgg>(VggOptions::from_config(config, origin));
  if (type == "outstep_mlp") return std::make_unique<Mlp>(MlpOptions::from_config(config, origin));
  throw DataError(
      "{}: \"model_type\" is \"{}\", expected \"gpt2\", \"outstep_resnet\", \"outstep_vgg\", "
      "\"outstep_revgpt\", \"outstep_revvit\", \"outstep_revnet\" or \"outstep_mlp\"",
      origin, type);
}

}  // namespace outstep::nn
