#include "outstep/base/errors.h"
#include "outstep/nn/resnet.h"

// The two ways to describe a ResNet: a recipe's [model] and the config.json of a folder we wrote.

namespace outstep::nn {

void ResNetOptions::require_takes(const ModelFacts& facts, const OriginOf& origin_of) const {
  require_takes_images(fmt::format("resnet{}", depth),
                       {.in_channels = in_channels, .num_classes = num_classes}, facts, origin_of);
}

ResNetOptions ResNetOptions::read(io::Section& section, int depth, const ModelFacts& facts) {
  ResNetOptions options{.depth = depth};
  read_image_keys(section, facts, options);
  options.zero_init_residual = section.flag("zero_init_residual", options.zero_init_residual);
  return options;
}

ResNetOptions ResNetOptions::from_config(const nlohmann::ordered_json& config,
                                         const std::string& origin) {
  const ConfigValues values(config, origin);
  ResNetOptions options;
  options.depth = static_cast<int>(values.one_of<int64_t>("depth", options.depth, {18, 34, 50}));
  read_image_keys(values, options);
  return options;
}

nlohmann::ordered_json ResNet::config() const {
  nlohmann::ordered_json config;
  config["model_type"] = "outstep_resnet";
  config["depth"] = options_.depth;
  write_image_keys(config, options_);
  return config;
}

}  // namespace outstep::nn
