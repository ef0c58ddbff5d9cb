#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "outstep/io/settings.h"
#include "outstep/nn/gpt2.h"
#include "outstep/nn/model.h"
#include "outstep/nn/model_facts.h"

// A reversible GPT: GPT-2 whose layers are couplings (reversible_layers.h).
//
// Blocks: "transformer.wte" (the embedding, in both streams), "transformer.h.0.attn",
// "transformer.h.0.mlp", …, "lm_head". Only the first and the last are not reversible. Shapes:
// tokens [B, T] int64 -> two streams [B, T, C] float32 -> logits [B, T, V]. Parameters have GPT-2's
// names and shapes; with a head of the mean all of them, and as many.

namespace outstep::nn {

struct RevGptOptions {
  Gpt2Options gpt = {};       // a tied head is possible where both ends are on one stage
  std::string head = "mean";  // "mean" of the streams, then norm; or "concat", norm over both

  // As Gpt2Options::read, but that the head is not tied unless told to.
  static RevGptOptions read(io::Section& section, const ModelFacts& facts);
  // Reads the config.json that RevGpt::config() makes. Throws DataError.
  static RevGptOptions from_config(const nlohmann::ordered_json& config, const std::string& origin);
};

class RevGpt : public Model {
 public:
  explicit RevGpt(RevGptOptions options);

  const RevGptOptions& options() const { return options_; }
  const std::string& family() const override;
  void require_takes(const ModelFacts& facts, const OriginOf& origin_of) const override {
    options_.gpt.require_takes(facts, origin_of);
  }
  nlohmann::ordered_json config() const override;
  at::Tensor example_input(int64_t batch) const override;   // [B, n_positions] int64
  at::Tensor example_target(int64_t batch) const override;  // [B, n_positions] int64

 private:
  RevGptOptions options_;
};

}  // namespace outstep::nn
