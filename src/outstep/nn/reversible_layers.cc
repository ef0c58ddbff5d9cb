#include "outstep/nn/reversible_layers.h"

#include <cmath>

#include "outstep/nn/gpt2_parts.h"
#include "outstep/nn/kernels/bias_gelu.h"

// B examples, T tokens, C = n_embd, I = n_inner

namespace outstep::nn {
namespace {

// What both couplings of a layer end with: two of them a layer add to the streams, so their
// outputs begin smaller (GPT-2, section 2.3).
double residual_deviation(const Gpt2Options& options) {
  return options.initializer_range / std::sqrt(2.0 * static_cast<double>(options.n_layer));
}

class Attention : public Gpt2Parts<Coupling> {
 public:
  Attention(const Gpt2Options& options, int64_t layer, bool is_causal)
      : Gpt2Parts(fmt::format("transformer.h.{}.attn", layer), options),
        attention_{.num_heads = options.n_head,
                   .is_causal = is_causal,
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
    const at::Tensor mixed = nn::attention(qkv, qkv_.bias->tensor, attention_, context);
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

}  // namespace

std::vector<std::unique_ptr<Block>> make_reversible_layers(const ReversibleLayersOptions& options) {
  std::vector<std::unique_ptr<Block>> layers;
  for (int64_t i = 0; i < options.sizes.n_layer; ++i) {
    layers.push_back(std::make_unique<Attention>(options.sizes, i, options.is_causal));
    layers.push_back(std::make_unique<Perceptron>(options.sizes, i));
  }
  return layers;
}

at::Tensor joined(const Streams& streams, const std::string& head) {
  if (head == "concat") return at::cat({streams.x, streams.other}, -1);
  return streams.x.add(streams.other).mul(0.5);
}

}  // namespace outstep::nn
