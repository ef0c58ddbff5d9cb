#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "outstep/io/settings.h"
#include "outstep/nn/images.h"

// Residual networks (He et al. 2015) as torchvision's ResNet-18, 34 and 50, with its names and its
// initialisation.
//
// Blocks: "stem", then one a residual block ("layer1.0", …), then "head" (mean over the image,
// fully connected layer). Shapes: images [B, in_channels, H, W] float32 -> activations [B,
// channels, h, w] -> logits [B, num_classes].

namespace outstep::nn {

struct ResNetOptions {
  int depth = 18;                 // 18, 34 or 50
  std::string stem = "imagenet";  // "imagenet": 7×7 stride 2 and a max-pool; "cifar": 3×3 stride 1,
                                  // for images of 32×32
  int64_t width = 64;             // channels of the first stage; torchvision's is 64
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
  int64_t image_size = 224;  // of example_input(); any size runs
  bool zero_init_residual =
      false;  // the last norm of each residual branch starts at 0 (Goyal et al. 2017)

  // What the section does not say comes from the facts: a "cifar" stem for images up to 64×64.
  // Throws ConfigError.
  static ResNetOptions read(io::Section& section, int depth, const ModelFacts& facts);
  // Reads the config.json that ResNet::config() makes. Throws DataError.
  static ResNetOptions from_config(const nlohmann::ordered_json& config, const std::string& origin);

  void require_takes(const ModelFacts& facts, const OriginOf& origin_of) const;
};

class ResNet : public ImageModel<ResNetOptions> {
 public:
  explicit ResNet(ResNetOptions options);

  const std::string& family() const override;
  // The fused batch norm needs it, and convolutions are faster on every processor we tried.
  bool prefers_channels_last() const override { return true; }
  nlohmann::ordered_json config() const override;
};

}  // namespace outstep::nn
