#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "outstep/io/settings.h"
#include "outstep/nn/model.h"
#include "outstep/nn/model_facts.h"

// GPT-2 (Radford et al. 2019) exactly as Hugging Face's GPT2LMHeadModel: the same names, the same
// Conv1D layout [in, out], gelu_new, layer norm before each half. A folder of ours loads there and
// theirs loads here.
//
// Blocks: "transformer.wte" (tokens and positions), "transformer.h.0" …, "lm_head" (last norm and
// head). Shapes: tokens [B, T] int64 -> activations [B, T, C] float32 -> logits [B, T, V].

namespace outstep::nn {

// Keys and defaults are Hugging Face's GPT2Config (the 124M model), but for dropout, which is 0
// here: the data this is trained on from scratch is read about once. n_inner = 0 stands for 4 ·
// n_embd.
class ConfigValues;

struct Gpt2Options {
  int64_t vocab_size = 50257;
  int64_t n_positions = 1024;
  int64_t n_embd = 768;
  int64_t n_layer = 12;
  int64_t n_head = 12;
  int64_t n_inner = 0;
  double embd_pdrop = 0;
  double resid_pdrop = 0;
  double attn_pdrop = 0;
  double layer_norm_epsilon = 1e-5;
  double initializer_range = 0.02;
  bool tie_word_embeddings = true;

  int64_t inner() const { return n_inner > 0 ? n_inner : 4 * n_embd; }

  // What the section does not say comes from the facts, then from the defaults. Throws ConfigError:
  // a value out of range, n_embd that n_head does not divide, a vocabulary or context too small for
  // the data.
  static Gpt2Options read(io::Section& section, const ModelFacts& facts,
                          const Gpt2Options& defaults);
  static Gpt2Options read(io::Section& section, const ModelFacts& facts);
  // The keys of layers alone, n_embd to initializer_range.
  static Gpt2Options read_layers(io::Section& section, const Gpt2Options& defaults);
  void read_layers(const ConfigValues& config);
  void write_layers(nlohmann::ordered_json& config) const;
  // Reads a config.json of transformers. Throws DataError for settings that would be another model
  // than this one.
  static Gpt2Options from_hugging_face(const nlohmann::ordered_json& config,
                                       const std::string& origin);

  void require_takes(const ModelFacts& facts, const OriginOf& origin_of) const;
};

class Gpt2 : public Model {
 public:
  explicit Gpt2(Gpt2Options options);

  const Gpt2Options& options() const { return options_; }
  const std::string& family() const override;
  void require_takes(const ModelFacts& facts, const OriginOf& origin_of) const override {
    options_.require_takes(facts, origin_of);
  }
  nlohmann::ordered_json config() const override;
  at::Tensor example_input(int64_t batch) const override;   // [B, n_positions] int64
  at::Tensor example_target(int64_t batch) const override;  // [B, n_positions] int64

 private:
  Gpt2Options options_;
};

}  // namespace outstep::nn
