#pragma once

#include <functional>

#include "outstep/base/torch.h"

namespace outstep::nn::kernels {

struct AttentionKind {
  int64_t num_heads = 1;
  bool is_causal = true;  // whether a token sees only itself and those before it
};

// Attention of each token over those it sees, scaled by 1/sqrt(head size).
//
//   qkv     [B, T, 3C]  queries, keys and values side by side, float32 or bfloat16
//   bias    [3C]        added to qkv first; float32
//   result  [B, T, C]   of qkv's type
//
// The fused form reads qkv where it lies, computes in float32, skips what the causal mask hides,
// and keeps beside its inputs one number a query for backward. One thread does a head, so its bits
// do not depend on how many there are.
at::Tensor attention(const at::Tensor& qkv, const at::Tensor& bias, AttentionKind kind);
at::Tensor attention_plain(const at::Tensor& qkv, const at::Tensor& bias, AttentionKind kind);

// For what the fused form cannot do: the parts of attention one by one.
struct Heads {
  at::Tensor queries, keys, values;  // [B, H, T, D]
  bool is_causal = true;
};
Heads split_heads(const at::Tensor& qkv, const at::Tensor& bias, AttentionKind kind);
at::Tensor join_heads(const at::Tensor& heads);  // [B, H, T, D] to [B, T, C]

// Product, mask, softmax, product: operators that know forward-mode differentiation, where ATen's
// own attention does not on the CPU. on_weights, if given, takes the weights [B, H, T, T] on their
// way (dropout that draws from counters, where ATen's draws from a generator).
at::Tensor attention_by_parts(const Heads& heads,
                              const std::function<at::Tensor(const at::Tensor&)>& on_weights = {});

}  // namespace outstep::nn::kernels
