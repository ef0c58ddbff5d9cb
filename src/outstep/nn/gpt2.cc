#include "outstep/nn/gpt2.h"

#include <cmath>

#include "outstep/base/errors.h"
#include "outstep/nn/attention.h"
#include "outstep/nn/dropout.h"
#include "outstep/nn/gpt2_parts.h"
#include "outstep/nn/kernels/bias_gelu.h"

// B examples, T tokens, C = n_embd, V = vocab_size, I = n_inner

namespace outstep::nn {
namespace {

using Gpt2Part = Gpt2Parts<PlainBlock>;

class Embedding : public Gpt2Part {
 public:
  explicit Embedding(const Gpt2Options& options) : Gpt2Part("transformer.wte", options) {
    tables_ = add_tables();
  }

  at::Tensor transform(const at::Tensor& tokens, ForwardContext& context) override {
    return embed(tokens, tables_, context);  // [B, T, C]
  }

  Parameter& tokens() { return *tables_.tokens; }

 private:
  Tables tables_;
};

// One layer: x + attention(norm(x)), then the same with the two-layer perceptron.
class Layer : public Gpt2Part {
 public:
  Layer(const Gpt2Options& options, int64_t index)
      : Gpt2Part(fmt::format("transformer.h.{}", index), options),
        attention_options_{.num_heads = options.n_head,
                           .layer = index,
                           .dropout = options.attn_pdrop,
                           .operation = purpose(name() + ".attn.attn_dropout")},
        attention_residual_drop_(purpose(name() + ".attn.resid_dropout")),
        mlp_drop_(purpose(name() + ".mlp.dropout")) {
    const int64_t width = options.n_embd;
    const double deviation = options.initializer_range;
    // Two additions to the residual stream a layer: its variance stays that of one (GPT-2,
    // section 2.3).
    const double residual_deviation =
        deviation / std::sqrt(2.0 * static_cast<double>(options.n_layer));
    norm_1_ = add_norm(name() + ".ln_1");
    qkv_ = add_conv1d(name() + ".attn.c_attn", width, 3 * width, deviation);
    attention_out_ = add_conv1d(name() + ".attn.c_proj", width, width, residual_deviation);
    norm_2_ = add_norm(name() + ".ln_2");
    mlp_in_ = add_conv1d(name() + ".mlp.c_fc", width, options.inner(), deviation);
    mlp_out_ = add_conv1d(name() + ".mlp.c_proj", options.inner(), width, residual_deviation);
  }

  at::Tensor transform(const at::Tensor& input, ForwardContext& context) override {
    const at::Tensor qkv = qkv_.project(kernels::layer_norm(input, with(norm_1_)));  // [B, T, 3C]
    const at::Tensor mixed =
        attention(qkv, qkv_.bias->tensor, attention_options_, context);  // [B, T, C]
    const auto [x, normed] =
        add_and_normalise(input, attention_out_.project(mixed), context);  // [B, T, C] both
    const at::Tensor hidden =
        kernels::bias_gelu(mlp_in_.project(normed), mlp_in_.bias->tensor);  // [B, T, I]
    return add(x, mlp_out_.project(hidden), mlp_out_, mlp_drop_, context);
  }

 private:
  bool drops(const ForwardContext& context) const {
    return context.training && options_.resid_pdrop > 0;
  }

  // x plus what a layer has projected, with dropout in between.
  at::Tensor add(const at::Tensor& x, const at::Tensor& projected, const Conv1d& layer,
                 uint32_t operation, const ForwardContext& context) const {
    if (!drops(context)) return kernels::add_biased(x, projected, layer.bias->tensor);
    const at::Tensor biased = projected.add(layer.bias->tensor);
    return x.add(dropout(biased, options_.resid_pdrop, context, operation));
  }

  kernels::AddedNorm add_and_normalise(const at::Tensor& x, const at::Tensor& projected,
                                       const ForwardContext& context) const {
    if (!drops(context)) {
      return kernels::add_layer_norm(x, projected, attention_out_.bias->tensor, with(norm_2_));
    }
    const at::Tensor sum = add(x, projected, attention_out_, attention_residual_drop_, context);
    return {sum, kernels::layer_norm(sum, with(norm_2_))};
  }

  AttentionOptions attention_options_;
  uint32_t attention_residual_drop_;
  uint32_t mlp_drop_;
  Norm norm_1_, norm_2_;
  Conv1d qkv_, attention_out_, mlp_in_, mlp_out_;
};

class Head : public Gpt2Part {
 public:
  // A tied head uses the embedding's table; null: a table of its own.
  Head(const Gpt2Options& options, Parameter* tied) : Gpt2Part("lm_head", options) {
    norm_ = add_norm("transformer.ln_f");
    if (tied) {
      share_parameter(*tied);
      table_ = tied;
    } else {
      table_ = &add_parameter("lm_head.weight", {options.vocab_size, options.n_embd},
                              init::normal(options.initializer_range));
    }
  }

  at::Tensor transform(const at::Tensor& x, ForwardContext&) override {
    return at::linear(kernels::layer_norm(x, with(norm_)), table_->tensor);  // [B, T, V]
  }

 private:
  Norm norm_;
  Parameter* table_;  // [V, C]
};

}  // namespace

Gpt2::Gpt2(Gpt2Options options) : options_(options) {
  check(options_.n_embd % options_.n_head == 0, "n_head divides n_embd");
  auto embedding = std::make_unique<Embedding>(options_);
  Parameter& tokens = embedding->tokens();
  blocks.push_back(std::move(embedding));
  for (int64_t i = 0; i < options_.n_layer; ++i)
    blocks.push_back(std::make_unique<Layer>(options_, i));
  blocks.push_back(
      std::make_unique<Head>(options_, options_.tie_word_embeddings ? &tokens : nullptr));
}

const std::string& Gpt2::family() const {
  static const std::string name = "gpt2";
  return name;
}

at::Tensor Gpt2::example_input(int64_t batch) const {
  return at::arange(batch * options_.n_positions, at::kLong)
      .remainder(options_.vocab_size)
      .view({batch, options_.n_positions});
}

at::Tensor Gpt2::example_target(int64_t batch) const { return example_input(batch); }

}  // namespace outstep::nn
