#include "outstep/nn/revgpt.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/nn/config_values.h"
#include "outstep/nn/coupling.h"
#include "outstep/nn/gpt2_parts.h"
#include "outstep/nn/kernels/bias_gelu.h"

// B examples, T tokens, C = n_embd, V = vocab_size, I = n_inner

namespace outstep::nn {
namespace {

// What both couplings of a layer end with: two of them a layer add to the streams, so their
// outputs begin smaller (GPT-2, section 2.3).
double residual_deviation(const Gpt2Options& options) {
  return options.initializer_range / std::sqrt(2.0 * static_cast<double>(options.n_layer));
}

class Embedding : public Gpt2Parts<Block> {
 public:
  explicit Embedding(const Gpt2Options& options) : Gpt2Parts("transformer.wte", options) {
    tables_ = add_tables();
  }

  Streams forward(const Streams& input, ForwardContext& context) override {
    const at::Tensor x = as_stream(embed(input.x, tables_, context));  // [B, T, C]
    return {.x = x, .other = x};
  }

  Parameter& tokens() { return *tables_.tokens; }

 private:
  Tables tables_;
};

class Attention : public Gpt2Parts<Coupling> {
 public:
  Attention(const Gpt2Options& options, int64_t layer)
      : Gpt2Parts(fmt::format("transformer.h.{}.attn", layer), options),
        attention_{.num_heads = options.n_head,
                   .layer = layer,
                   .dropout = options.attn_pdrop,
                   .operation = purpose(name() + ".attn_dropout")},
        drop_(purpose(name() + ".resid_dropout")) {
    const int64_t width = options.n_embd;
    norm_ = add_norm(fmt::format("transformer.h.{}.ln_1", layer));
    qkv_ = add_conv1d(name() + ".c_attn", width, 3 * width, options.initializer_range);
    out_ = add_conv1d(name() + ".c_proj", width, width, residual_deviation(options));
  }

  at::Tensor residual(const at::Tensor& x, ForwardContext& context) override {
    const at::Tensor qkv = qkv_.project(kernels::layer_norm(x, with(norm_)));  // [B, T, 3C]
    const at::Tensor mixed = causal_attention(qkv, qkv_.bias->tensor, attention_, context);
    return dropout(out_.project(mixed).add(out_.bias->tensor), options_.resid_pdrop, context,
                   drop_);  // [B, T, C]
  }

 private:
  AttentionOptions attention_;
  uint32_t drop_;
  Norm norm_;
  Conv1d qkv_, out_;
};

class Perceptron : public Gpt2Parts<Coupling> {
 public:
  Perceptron(const Gpt2Options& options, int64_t layer)
      : Gpt2Parts(fmt::format("transformer.h.{}.mlp", layer), options),
        drop_(purpose(name() + ".dropout")) {
    norm_ = add_norm(fmt::format("transformer.h.{}.ln_2", layer));
    in_ = add_conv1d(name() + ".c_fc", options.n_embd, options.inner(), options.initializer_range);
    out_ = add_conv1d(name() + ".c_proj", options.inner(), options.n_embd,
                      residual_deviation(options));
  }

  at::Tensor residual(const at::Tensor& x, ForwardContext& context) override {
    const at::Tensor hidden =
        kernels::bias_gelu(in_.project(kernels::layer_norm(x, with(norm_))), in_.bias->tensor);
    return dropout(out_.project(hidden).add(out_.bias->tensor), options_.resid_pdrop, context,
                   drop_);  // [B, T, C]
  }

 private:
  uint32_t drop_;
  Norm norm_;
  Conv1d in_, out_;
};

class Head : public Gpt2Parts<Block> {
 public:
  // A tied head uses the embedding's table; null: a table of its own.
  Head(const RevGptOptions& options, Parameter* tied)
      : Gpt2Parts("lm_head", options.gpt), joins_(options.head == "concat") {
    const int64_t width = (joins_ ? 2 : 1) * options.gpt.n_embd;
    norm_ = add_norm("transformer.ln_f", width);
    if (tied) {
      share_parameter(*tied);
      table_ = tied;
    } else {
      table_ = &add_parameter("lm_head.weight", {options.gpt.vocab_size, width},
                              init::normal(options.gpt.initializer_range));
    }
  }

  Streams forward(const Streams& input, ForwardContext&) override {
    const at::Tensor x = joins_ ? at::cat({input.x, input.other}, -1)
                                : input.x.add(input.other).mul(0.5);  // [B, T, C or 2C]
    return {.x = at::linear(kernels::layer_norm(x, with(norm_)), table_->tensor)};  // [B, T, V]
  }

 private:
  bool joins_;
  Norm norm_;
  Parameter* table_;  // [V, C or 2C]
};

}  // namespace

RevGpt::RevGpt(RevGptOptions options) : options_(std::move(options)) {
  check(options_.gpt.n_embd % options_.gpt.n_head == 0, "n_head divides n_embd");
  check(!options_.gpt.tie_word_embeddings || options_.head == "mean",
        "a tied head is as wide as the embedding");
  auto embedding = std::make_unique<Embedding>(options_.gpt);
  Parameter& tokens = embedding->tokens();
  blocks.push_back(std::move(embedding));
  for (int64_t i = 0; i < options_.gpt.n_layer; ++i) {
    blocks.push_back(std::make_unique<Attention>(options_.gpt, i));
    blocks.push_back(std::make_unique<Perceptron>(options_.gpt, i));
  }
  blocks.push_back(
      std::make_unique<Head>(options_, options_.gpt.tie_word_embeddings ? &tokens : nullptr));
}

RevGptOptions RevGptOptions::read(io::Section& section, const ModelFacts& facts) {
  RevGptOptions options;
  options.gpt = Gpt2Options::read(section, facts, {.tie_word_embeddings = false});
  options.head = section.text("head", options.head, {.choices = {"mean", "concat"}});
  if (options.gpt.tie_word_embeddings && options.head == "concat") {
    throw ConfigError(
        "{}: model.tie_word_embeddings needs a head as wide as the embedding; use head = \"mean\"",
        section.origin("tie_word_embeddings"));
  }
  return options;
}

RevGptOptions RevGptOptions::from_config(const nlohmann::ordered_json& config,
                                         const std::string& origin) {
  RevGptOptions options;
  nlohmann::ordered_json plain = config;
  if (plain.is_object()) plain["model_type"] = "gpt2";
  options.gpt = Gpt2Options::from_hugging_face(plain, origin);
  options.head = ConfigValues(config, origin).one_of("head", options.head, {"mean", "concat"});
  if (options.head == "concat" && options.gpt.tie_word_embeddings) {
    throw DataError("{}: a tied head cannot be \"concat\"", origin);
  }
  return options;
}

nlohmann::ordered_json RevGpt::config() const {
  nlohmann::ordered_json config = Gpt2(options_.gpt).config();
  config["architectures"] = {"OutstepRevGpt"};
  config["model_type"] = "outstep_revgpt";
  config["head"] = options_.head;
  return config;
}

const std::string& RevGpt::family() const {
  static const std::string name = "revgpt";
  return name;
}

at::Tensor RevGpt::example_input(int64_t batch) const {
  return Gpt2(options_.gpt).example_input(batch);
}

at::Tensor RevGpt::example_target(int64_t batch) const { return example_input(batch); }

}  // namespace outstep::nn
