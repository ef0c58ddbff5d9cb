#include "outstep/base/errors.h"
#include "outstep/nn/config_values.h"
#include "outstep/nn/images.h"
#include "outstep/nn/resnet.h"

// The two ways to describe a ResNet: a recipe's [model] and the config.json of a folder we wrote.

namespace outstep::nn {
void ResNetOptions::require_takes(const ModelFacts& facts, const OriginOf& origin_of) const {
  require_takes_images(fmt::format("resnet{}", depth),
                       {.in_channels = in_channels, .num_classes = num_classes}, facts, origin_of);
}

ResNetOptions ResNetOptions::read(io::Section& section, int depth, const ModelFacts& facts) {
  const io::IntegerBounds size{.min = 1, .max = ConfigValues::kMaxSize};
  ResNetOptions options{.depth = depth};
  if (facts.input_shape.size() == 3) {
    options.in_channels = facts.input_shape[0];
    options.image_size = facts.input_shape[1];
    if (options.image_size <= kLargestSmallImage) options.stem = "cifar";
  }
  if (facts.num_classes > 0) options.num_classes = facts.num_classes;
  options.stem = section.text("stem", options.stem, {.choices = {"imagenet", "cifar"}});
  options.width = section.integer("width", options.width, {.min = 1, .max = 4096});
  options.in_channels = section.integer("in_channels", options.in_channels, size);
  options.num_classes = section.integer("num_classes", options.num_classes, size);
  options.zero_init_residual = section.flag("zero_init_residual", options.zero_init_residual);
  options.require_takes(facts, [&](const std::string& key) { return section.origin(key); });
  return options;
}

ResNetOptions ResNetOptions::from_config(const nlohmann::ordered_json& config,
                                         const std::string& origin) {
  const ConfigValues values(config, origin);
  ResNetOptions options;
  const auto depth = values.get<int64_t>("depth", 18);
  if (depth != 18 && depth != 34 && depth != 50) {
    throw DataError("{}: \"depth\" is {}, expected 18, 34 or 50", origin, depth);
  }
  options.depth = static_cast<int>(depth);
  options.stem = values.get<std::string>("stem", options.stem);
  if (options.stem != "imagenet" && options.stem != "cifar") {
    throw DataError("{}: \"stem\" is \"{}\", expected \"imagenet\" or \"cifar\"", origin,
                    options.stem);
  }
  options.width = values.size("width", options.width);
  options.in_channels = values.size("in_channels", options.in_channels);
  options.num_classes = values.size("num_classes", options.num_classes);
  options.image_size = values.size("image_size", options.image_size);
  return options;
}

nlohmann::ordered_json ResNet::config() const {
  nlohmann::ordered_json config;
  config["model_type"] = "outstep_resnet";
  config["depth"] = options_.depth;
  config["stem"] = options_.stem;
  config["width"] = options_.width;
  config["in_channels"] = options_.in_channels;
  config["num_classes"] = options_.num_classes;
  config["image_size"] = options_.image_size;
  return config;
}

}  // namespace outstep::nn
