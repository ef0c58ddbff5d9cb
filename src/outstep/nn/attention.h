#pragma once

#include "outstep/nn/block.h"

namespace outstep::nn {

struct AttentionOptions {
  double dropout = 0;      // of attention weights
  uint32_t operation = 0;  // names the dropout to ForwardContext::draw
};

// Multi-head attention of each token over itself and those before it, scaled by 1/sqrt(head size).
//
//   qkv     [B, T, 3C]  queries, keys and values side by side
//   result  [B, T, C]
at::Tensor causal_attention(const at::Tensor& qkv, int64_t num_heads,
                            const AttentionOptions& options, const ForwardContext& context);

}  // namespace outstep::nn
