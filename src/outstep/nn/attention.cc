#include "outstep/nn/attention.h"

#include <cmath>

#include "outstep/base/errors.h"
#include "outstep/nn/dropout.h"
#include "outstep/nn/kernels/attention.h"

// B examples, T tokens, H heads, D channels a head, C = H · D

namespace outstep::nn {
namespace {

struct Heads {
  at::Tensor queries, keys, values;  // [B, H, T, D]
};

Heads split_heads(const at::Tensor& qkv, int64_t num_heads) {
  const int64_t width = qkv.size(2) / 3;
  const at::Tensor parts = qkv.view({qkv.size(0), qkv.size(1), 3, num_heads, width / num_heads});
  const std::vector<at::Tensor> heads = parts.permute({2, 0, 3, 1, 4}).unbind(0);
  return {heads[0], heads[1], heads[2]};
}

at::Tensor join_heads(const at::Tensor& heads) { return heads.transpose(1, 2).flatten(2); }

// The plain form, for what the fused one cannot do: its dropout draws from a generator, not from
// counters.
at::Tensor attention_by_parts(const Heads& heads, const AttentionOptions& options,
                              const ForwardContext& context) {
  const auto& [queries, keys, values] = heads;
  const int64_t length = queries.size(-2);
  const double scale = 1 / std::sqrt(static_cast<double>(queries.size(-1)));
  const at::Tensor future = at::ones({length, length}, queries.options().dtype(at::kBool)).triu(1);
  const at::Tensor scores =
      at::matmul(queries.mul(scale), keys.transpose(-2, -1)).to(at::kFloat);  // [B, H, T, T]
  const at::Tensor weights = scores.masked_fill(future, -INFINITY).softmax(-1);
  return at::matmul(
      dropout(weights, options.dropout, context, options.operation).to(values.dtype()), values);
}

at::Tensor attention_with_cache(const Heads& heads, const AttentionOptions& options,
                                KeyValueCache& cache) {
  const bool is_prompt = cache.length() == 0;
  check(is_prompt || heads.queries.size(2) == 1, "a filled cache takes one token at a time");
  const auto [keys, values] = cache.append(options.layer, heads.keys, heads.values);
  return at::scaled_dot_product_attention(heads.queries, keys, values, {}, 0.0,
                                          /*is_causal=*/is_prompt);
}

}  // namespace

std::pair<at::Tensor, at::Tensor> KeyValueCache::append(int64_t layer, const at::Tensor& keys,
                                                        const at::Tensor& values) {
  const auto index = static_cast<size_t>(layer);
  const int64_t num_new = keys.size(2);
  check(length_ + num_new <= capacity_, "the cache has room for the new tokens");
  if (!keys_[index].defined()) {
    const std::vector<int64_t> shape = {keys.size(0), keys.size(1), capacity_, keys.size(3)};
    keys_[index] = at::empty(shape, keys.options());
    values_[index] = at::empty(shape, values.options());
  }
  keys_[index].narrow(2, length_, num_new).copy_(keys);
  values_[index].narrow(2, length_, num_new).copy_(values);
  return {keys_[index].narrow(2, 0, length_ + num_new),
          values_[index].narrow(2, 0, length_ + num_new)};
}

at::Tensor causal_attention(const at::Tensor& qkv, const at::Tensor& bias,
                            const AttentionOptions& options, const ForwardContext& context) {
  const bool drops = context.training && options.dropout > 0;
  if (!context.cache && !drops) return kernels::causal_attention(qkv, bias, options.num_heads);
  const Heads heads = split_heads(qkv.add(bias.to(qkv.scalar_type())), options.num_heads);
  return join_heads(context.cache ? attention_with_cache(heads, options, *context.cache)
                                  : attention_by_parts(heads, options, context));
}

}  // namespace outstep::nn
