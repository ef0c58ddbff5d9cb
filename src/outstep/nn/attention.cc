#include "outstep/nn/attention.h"

#include <cmath>

#include "outstep/nn/dropout.h"

// B examples, T tokens, H heads, D channels a head, C = H · D

namespace outstep::nn {
namespace {

// The plain form, for what the fused one cannot do: its dropout draws from a generator, not from
// counters.
at::Tensor attention_by_parts(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const AttentionOptions& options, const ForwardContext& context) {
  const int64_t length = q.size(-2);
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(-1)));
  const at::Tensor future = at::ones({length, length}, q.options().dtype(at::kBool)).triu(1);
  const at::Tensor scores =
      at::matmul(q.mul(scale), k.transpose(-2, -1)).to(at::kFloat);  // [B, H, T, T]
  const at::Tensor weights = scores.masked_fill(future, -INFINITY).softmax(-1);
  return at::matmul(dropout(weights, options.dropout, context, options.operation).to(v.dtype()), v);
}

}  // namespace

at::Tensor causal_attention(const at::Tensor& qkv, int64_t num_heads,
                            const AttentionOptions& options, const ForwardContext& context) {
  const int64_t batch = qkv.size(0), length = qkv.size(1), width = qkv.size(2) / 3;
  const at::Tensor heads = qkv.view({batch, length, 3, num_heads, width / num_heads});
  const std::vector<at::Tensor> parts =
      heads.permute({2, 0, 3, 1, 4}).unbind(0);  // 3 × [B, H, T, D]
  const bool drops = context.training && options.dropout > 0;
  const at::Tensor mixed = drops
                               ? attention_by_parts(parts[0], parts[1], parts[2], options, context)
                               : at::scaled_dot_product_attention(parts[0], parts[1], parts[2], {},
                                                                  0.0, /*is_causal=*/true);
  return mixed.transpose(1, 2).reshape({batch, length, width});
}

}  // namespace outstep::nn
