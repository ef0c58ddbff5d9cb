#pragma once

#include <string>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/nn/attention.h"
#include "outstep/nn/block.h"
#include "outstep/nn/dropout.h"
#include "outstep/nn/gpt2.h"
#include "outstep/nn/kernels/layer_norm.h"

// What GPT-2 and its reversible sister are made of, under GPT-2's names. Included by their sources
// only.

namespace outstep::nn {

// A layer norm's gain and bias.
struct Norm {
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;
};

// Hugging Face's Conv1D: a linear layer whose weight is stored [in, out].
struct Conv1d {
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;

  // Without the bias, which the next kernel adds.
  at::Tensor project(const at::Tensor& x) const { return at::matmul(x, weight->tensor); }
};

// Of tokens [V, C] and of positions [n_positions, C].
struct Tables {
  Parameter* tokens = nullptr;
  Parameter* positions = nullptr;
};

// A block that owns such parts; Base is PlainBlock, Block or Coupling.
template <typename Base>
class Gpt2Parts : public Base {
 protected:
  Gpt2Parts(std::string name, const Gpt2Options& options)
      : Base(std::move(name)), options_(options) {}

  Norm add_norm(const std::string& name, int64_t width) {
    return {&this->add_parameter(name + ".weight", {width}, init::ones(), Decay::no),
            &this->add_parameter(name + ".bias", {width}, init::zeros(), Decay::no)};
  }
  Norm add_norm(const std::string& name) { return add_norm(name, options_.n_embd); }
  Conv1d add_conv1d(const std::string& name, int64_t in, int64_t out, double deviation) {
    return {&this->add_parameter(name + ".weight", {in, out}, init::normal(deviation)),
            &this->add_parameter(name + ".bias", {out}, init::zeros(), Decay::no)};
  }
  Tables add_tables() {
    const Init init = init::normal(options_.initializer_range);
    return {&this->add_parameter("transformer.wte.weight", {options_.vocab_size, options_.n_embd},
                                 init),
            &this->add_parameter("transformer.wpe.weight", {options_.n_positions, options_.n_embd},
                                 init)};
  }

  kernels::NormOptions with(const Norm& norm) const {
    return {norm.weight->tensor, norm.bias->tensor, options_.layer_norm_epsilon};
  }

  // tokens [B, T] -> [B, T, C]
  at::Tensor embed(const at::Tensor& tokens, const Tables& tables,
                   const ForwardContext& context) const {
    const int64_t begin = context.cache ? context.cache->length() : 0;
    const int64_t length = tokens.size(1);
    if (begin + length > options_.n_positions) {
      throw ConfigError("{} tokens are more than model.n_positions = {}", begin + length,
                        options_.n_positions);
    }
    const at::Tensor positions = tables.positions->tensor.narrow(0, begin, length);    // [T, C]
    const at::Tensor x = at::embedding(tables.tokens->tensor, tokens).add(positions);  // [B, T, C]
    return dropout(x, options_.embd_pdrop, context, purpose("transformer.drop"));
  }

  const Gpt2Options options_;
};

}  // namespace outstep::nn
