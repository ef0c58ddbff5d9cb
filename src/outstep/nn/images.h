#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "outstep/base/torch.h"
#include "outstep/io/settings.h"
#include "outstep/nn/config_values.h"
#include "outstep/nn/model.h"
#include "outstep/nn/model_facts.h"

// What models of images share. Their options have fields in_channels, num_classes and image_size,
// those of convolutional networks also width and, where there are two to choose from, stem: named
// as the keys of [model] and of config.json that they are read from.

namespace outstep::nn {

// Up to so many pixels a side the "cifar" stem is the default.
inline constexpr int64_t kLargestSmallImage = 64;

struct ImageSizes {
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
};

// Throws ConfigError unless a model of such sizes can take what the data gives; model: its name.
void require_takes_images(const std::string& model, const ImageSizes& sizes,
                          const ModelFacts& facts, const OriginOf& origin_of);

// Float32 numbers that look like no image, but are the same everywhere.
at::Tensor example_images(const std::vector<int64_t>& shape);

// Reads [model]. What the section does not say comes from the facts, which the options' own
// require_takes is then held against. Throws ConfigError.
template <typename Options>
void read_image_keys(io::Section& section, const ModelFacts& facts, Options& options) {
  const io::IntegerBounds size{.min = 1, .max = ConfigValues::kMaxSize};
  if (facts.input_shape.size() == 3) {
    options.in_channels = facts.input_shape[0];
    options.image_size = facts.input_shape[1];
  }
  if (facts.num_classes > 0) options.num_classes = facts.num_classes;
  if constexpr (requires { options.stem; }) {
    if (options.image_size <= kLargestSmallImage) options.stem = "cifar";
    options.stem = section.text("stem", options.stem, {.choices = {"imagenet", "cifar"}});
  }
  if constexpr (requires { options.width; }) {
    options.width = section.integer("width", options.width, {.min = 1, .max = 4096});
  }
  options.in_channels = section.integer("in_channels", options.in_channels, size);
  options.num_classes = section.integer("num_classes", options.num_classes, size);
  options.require_takes(facts, [&](const std::string& key) { return section.origin(key); });
}

// Reads a config.json. Throws DataError.
template <typename Options>
void read_image_keys(const ConfigValues& config, Options& options) {
  if constexpr (requires { options.stem; }) {
    options.stem = config.one_of<std::string>("stem", options.stem, {"imagenet", "cifar"});
  }
  if constexpr (requires { options.width; }) options.width = config.size("width", options.width);
  options.in_channels = config.size("in_channels", options.in_channels);
  options.num_classes = config.size("num_classes", options.num_classes);
  options.image_size = config.size("image_size", options.image_size);
}

// Writes what that reads.
template <typename Options>
void write_image_keys(nlohmann::ordered_json& config, const Options& options) {
  if constexpr (requires { options.stem; }) config["stem"] = options.stem;
  if constexpr (requires { options.width; }) config["width"] = options.width;
  config["in_channels"] = options.in_channels;
  config["num_classes"] = options.num_classes;
  config["image_size"] = options.image_size;
}

// A model of images that is told by Options all that it is.
template <typename Options>
class ImageModel : public Model {
 public:
  const Options& options() const { return options_; }
  void require_takes(const ModelFacts& facts, const OriginOf& origin_of) const final {
    options_.require_takes(facts, origin_of);
  }
  at::Tensor example_input(int64_t batch) const final {  // [B, in_channels, size, size]
    return example_images({batch, options_.in_channels, options_.image_size, options_.image_size});
  }
  at::Tensor example_target(int64_t batch) const final {  // [B] int64
    return at::arange(batch, at::kLong).remainder(options_.num_classes);
  }

 protected:
  explicit ImageModel(Options options) : options_(std::move(options)) {}

  const Options options_;
};

}  // namespace outstep::nn
