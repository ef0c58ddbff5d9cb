#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "outstep/io/settings.h"
#include "outstep/nn/gpt2.h"
#include "outstep/nn/images.h"

// A reversible vision transformer (Dosovitskiy et al. 2021; Mangalam et al. 2022, arXiv
// 2302.04869): patches of an image are tokens that all see one another, and the layers are
// couplings (reversible_layers.h).
//
// Blocks: "embedding" (in both streams), "transformer.h.0.attn", "transformer.h.0.mlp", …, "head".
// Only the first and the last are not reversible. Shapes: images [B, in_channels, S, S] -> two
// streams [B, T, n_embd] float32 -> logits [B, num_classes].

namespace outstep::nn {

struct RevVitOptions {
  Gpt2Options layers = {.n_embd = 192, .n_layer = 12, .n_head = 3};  // what a layer has of them
  std::string head = "mean";  // of the streams: their "mean", or both side by side, "concat"
  std::string pool = "mean";  // of the tokens: their "mean", or a class "token" of its own
  int64_t patch_size = 4;     // pixels a side; divides image_size
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
  int64_t image_size = 32;  // S; there is a position for each patch, so no other size runs

  int64_t num_patches() const { return (image_size / patch_size) * (image_size / patch_size); }
  // T: patches and, before them, the class token if there is one.
  int64_t num_tokens() const { return num_patches() + (pool == "token" ? 1 : 0); }

  // What the section does not say comes from the facts: patches of 4 for images up to 64×64, else
  // of 16. Throws ConfigError.
  static RevVitOptions read(io::Section& section, const ModelFacts& facts);
  // Reads the config.json that RevVit::config() makes. Throws DataError.
  static RevVitOptions from_config(const nlohmann::ordered_json& config, const std::string& origin);

  void require_takes(const ModelFacts& facts, const OriginOf& origin_of) const;
};

class RevVit : public ImageModel<RevVitOptions> {
 public:
  explicit RevVit(RevVitOptions options);

  const std::string& family() const override;
  nlohmann::ordered_json config() const override;
};

}  // namespace outstep::nn
