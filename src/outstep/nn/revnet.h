#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "outstep/io/settings.h"
#include "outstep/nn/images.h"

// Reversible residual networks as PETRA (arXiv 2406.02052) makes them of ResNet-18, 34 and 50: two
// streams that are each as wide as the ResNet, one residual function a block.
//
// Blocks: "stem", then one a residual block ("layer1.0", …), then "head". All are couplings but the
// stem, the head, and the blocks that change the shape. Shapes: images [B, in_channels, H, W] ->
// two streams [B, C, h, w] -> logits [B, num_classes].
//
// f is conv 3×3, batch norm, ReLU, twice, or a bottleneck 1×1, 3×3, 1×1 with batch norm and ReLU
// behind each; nothing follows the addition. Convolutions have biases, and initial values are
// PyTorch's. A block that changes the shape is y = f(x) + norm(conv1×1(x̃)) with ỹ = the first
// activation of f, or, with bottlenecks, ỹ = norm(conv1×1(x)).

namespace outstep::nn {

struct RevNetOptions {
  // "stem", then of "rev" (reversible), "down" (halves the image, doubles the channels) and "widen"
  // (bottlenecks: four times the channels), then "head".
  std::vector<std::string> blocks = {"stem", "rev", "rev", "down", "rev", "head"};
  std::string kind = "basic";  // of residual functions: "basic" or "bottleneck"
  std::string stem =
      "imagenet";      // "imagenet": 7×7 stride 2 and 2×2 max-pool; "cifar": 3×3 stride 1
  int64_t width = 64;  // channels of a stream behind the stem
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
  int64_t image_size = 224;  // of example_input(); any size runs

  // The blocks of RevNet-18, 34 or 50.
  static RevNetOptions of_depth(int depth);
  // Reads blocks and kind too where depth is 0. What the section does not say comes from the facts.
  // Throws ConfigError.
  static RevNetOptions read(io::Section& section, int depth, const ModelFacts& facts);
  // Reads the config.json that RevNet::config() makes. Throws DataError.
  static RevNetOptions from_config(const nlohmann::ordered_json& config, const std::string& origin);

  void require_takes(const ModelFacts& facts, const OriginOf& origin_of) const;
};

class RevNet : public ImageModel<RevNetOptions> {
 public:
  explicit RevNet(RevNetOptions options);

  const std::string& family() const override;
  bool prefers_channels_last() const override { return true; }
  nlohmann::ordered_json config() const override;
};

}  // namespace outstep::nn
