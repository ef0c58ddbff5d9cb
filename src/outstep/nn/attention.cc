#include "outstep/nn/attention.h"

#include "outstep/base/errors.h"
#include "outstep/nn/dropout.h"
#include "outstep/nn/kernels/attention.h"

// B examples, T tokens, H heads, D channels a head, C = H · D

namespace outstep::nn {
namespace {

at::Tensor attention_with_cache(const kernels::Heads& heads, const AttentionOptions& options,
                                KeyValueCache& cache) {
  check(options.is_causal, "what comes later cannot change what a cache holds");
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

at::Tensor attention(const at::Tensor& qkv, const at::Tensor& bias, const AttentionOptions& options,
                     const ForwardContext& context) {
  const kernels::AttentionKind kind{.num_heads = options.num_heads, .is_causal = options.is_causal};
  const bool drops = context.training && options.dropout > 0;
  if (!context.cache && !drops) return kernels::attention(qkv, bias, kind);
  const kernels::Heads heads = kernels::split_heads(qkv, bias, kind);
  const auto drop = [&](const at::Tensor& weights) {
    return dropout(weights, options.dropout, context, options.operation);
  };
  return kernels::join_heads(context.cache ? attention_with_cache(heads, options, *context.cache)
                                           : kernels::attention_by_parts(heads, drop));
}

}  // namespace outstep::nn
