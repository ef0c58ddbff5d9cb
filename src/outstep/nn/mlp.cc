#include "outstep/nn/mlp.h"

#include <cmath>

#include "outstep/base/errors.h"
#include "outstep/nn/config_values.h"
#include "outstep/nn/images.h"

namespace outstep::nn {
namespace {

const std::vector<std::string> kActivations = {"relu", "gelu", "tanh"};

enum class Activation { none, relu, gelu, tanh };

Activation activation_of(const std::string& name) {
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  check(name == "tanh", "an activation of a known name");
  return Activation::tanh;
}

// A linear layer with torch's initialisation, behind a flattening of all dims but the first, and an
// activation.
class Dense : public PlainBlock {
 public:
  Dense(const std::string& name, int64_t in, int64_t out, Activation activation)
      : PlainBlock(name), activation_(activation) {
    weight_ = &add_parameter(name + ".weight", {out, in}, init::kaiming_uniform_fan_in());
    bias_ = &add_parameter(name + ".bias", {out},
                           init::uniform(1 / std::sqrt(static_cast<double>(in))), Decay::no);
  }

  at::Tensor transform(const at::Tensor& x, ForwardContext&) override {
    const at::Tensor y = at::linear(x.flatten(1), weight_->tensor, bias_->tensor);
    switch (activation_) {
      case Activation::relu:
        return at::relu(y);
      case Activation::gelu:
        return at::gelu(y);
      case Activation::tanh:
        return at::tanh(y);
      case Activation::none:
        break;
    }
    return y;
  }

 private:
  Activation activation_;
  Parameter* weight_;
  Parameter* bias_;
};

}  // namespace

MlpOptions MlpOptions::read(io::Section& section, const ModelFacts& facts) {
  MlpOptions options;
  const io::IntegerBounds size{.min = 1, .max = ConfigValues::kMaxSize};
  if (!facts.input_shape.empty()) options.input_shape = facts.input_shape;
  if (facts.num_classes > 0) options.num_classes = facts.num_classes;
  options.input_shape = section.integers("input_shape", options.input_shape, size);
  options.hidden_sizes = section.integers("hidden_sizes", options.hidden_sizes, size);
  options.num_classes = section.integer("num_classes", options.num_classes, size);
  options.activation = section.text("activation", options.activation, {.choices = kActivations});
  options.require_takes(facts, [&](const std::string& key) { return section.origin(key); });
  return options;
}

void MlpOptions::require_takes(const ModelFacts& facts, const OriginOf& origin_of) const {
  if (facts.vocab_size > 0) {
    throw ConfigError(
        "{}: model \"mlp\" does not read tokens, as {} gives them; use model \"gpt2\", or data of "
        "images",
        origin_of("name"), facts.source);
  }
  if (!facts.input_shape.empty() &&
      c10::multiply_integers(input_shape) != c10::multiply_integers(facts.input_shape)) {
    throw ConfigError("{}: model.input_shape holds {} numbers, but an example of {} holds {}",
                      origin_of("input_shape"), c10::multiply_integers(input_shape), facts.source,
                      c10::multiply_integers(facts.input_shape));
  }
  if (num_classes < facts.num_classes) {
    throw ConfigError("{}: model.num_classes = {} is smaller than the {} classes of {}",
                      origin_of("num_classes"), num_classes, facts.num_classes, facts.source);
  }
}

MlpOptions MlpOptions::from_config(const nlohmann::ordered_json& config,
                                   const std::string& origin) {
  const ConfigValues values(config, origin);
  MlpOptions options;
  options.input_shape = values.sizes("input_shape", options.input_shape);
  options.hidden_sizes = values.sizes("hidden_sizes", options.hidden_sizes);
  options.num_classes = values.size("num_classes", options.num_classes);
  options.activation = values.one_of("activation", options.activation, kActivations);
  return options;
}

Mlp::Mlp(MlpOptions options) : options_(std::move(options)) {
  int64_t size = c10::multiply_integers(options_.input_shape);
  for (size_t i = 0; i < options_.hidden_sizes.size(); ++i) {
    const int64_t out = options_.hidden_sizes[i];
    blocks.push_back(std::make_unique<Dense>(fmt::format("layers.{}", i), size, out,
                                             activation_of(options_.activation)));
    size = out;
  }
  blocks.push_back(std::make_unique<Dense>("head", size, options_.num_classes, Activation::none));
}

const std::string& Mlp::family() const {
  static const std::string name = "mlp";
  return name;
}

nlohmann::ordered_json Mlp::config() const {
  nlohmann::ordered_json config;
  config["model_type"] = "outstep_mlp";
  config["input_shape"] = options_.input_shape;
  config["hidden_sizes"] = options_.hidden_sizes;
  config["num_classes"] = options_.num_classes;
  config["activation"] = options_.activation;
  return config;
}

at::Tensor Mlp::example_input(int64_t batch) const {
  std::vector<int64_t> shape = {batch};
  shape.insert(shape.end(), options_.input_shape.begin(), options_.input_shape.end());
  return example_images(shape);
}

at::Tensor Mlp::example_target(int64_t batch) const {
  return at::arange(batch, at::kLong).remainder(options_.num_classes);
}

}  // namespace outstep::nn
