#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "outstep/io/settings.h"
#include "outstep/nn/images.h"

// VGG-11 and VGG-16 (Simonyan & Zisserman 2014) as they are trained on small images: batch norm
// behind each convolution, and a single fully connected layer behind the last pool.
//
// Blocks: one a convolution with its norm, its ReLU and the 2×2 max-pool that may follow, named as
// torchvision's vgg11_bn and vgg16_bn name the convolution ("features.0", "features.4", …), then
// "head". Shapes: images [B, in_channels, H, W] -> activations [B, C, h, w] -> logits [B,
// num_classes]. Initial values are PyTorch's.

namespace outstep::nn {

struct VggOptions {
  int depth = 16;      // 11 or 16
  int64_t width = 64;  // channels of the first convolution; the widest have eight times as many
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
  int64_t image_size = 32;  // of example_input(); from 32 on any size runs

  // What the section does not say comes from the facts. Throws ConfigError.
  static VggOptions read(io::Section& section, int depth, const ModelFacts& facts);
  // Reads the config.json that Vgg::config() makes. Throws DataError.
  static VggOptions from_config(const nlohmann::ordered_json& config, const std::string& origin);

  void require_takes(const ModelFacts& facts, const OriginOf& origin_of) const;
};

class Vgg : public ImageModel<VggOptions> {
 public:
  explicit Vgg(VggOptions options);

  const std::string& family() const override;
  bool prefers_channels_last() const override { return true; }
  nlohmann::ordered_json config() const override;
};

}  // namespace outstep::nn
