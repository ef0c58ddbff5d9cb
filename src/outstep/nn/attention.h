#pragma once

#include "outstep/nn/block.h"

namespace outstep::nn {

// The keys and values that each layer has made of the tokens so far, so that the next token costs
// one token's work.
//
//   KeyValueCache cache(n_layer, n_positions);
//   ForwardContext context{.cache = &cache};
//   logits = model.forward(prompt, context);   cache.advance(prompt.size(1));
//   logits = model.forward(token, context);    cache.advance(1);
//
// Not thread safe; one forward pass at a time.
class KeyValueCache {
 public:
  KeyValueCache(int64_t num_layers, int64_t capacity)
      : keys_(static_cast<size_t>(num_layers)), values_(keys_.size()), capacity_(capacity) {}

  int64_t length() const { return length_; }  // tokens seen
  void advance(int64_t num_tokens) { length_ += num_tokens; }
  void clear() { length_ = 0; }

  // Puts a layer's keys and values [B, H, t, D] behind those there; returns all, [B, H, length() +
  // t, D].
  std::pair<at::Tensor, at::Tensor> append(int64_t layer, const at::Tensor& keys,
                                           const at::Tensor& values);

 private:
  std::vector<at::Tensor> keys_;    // a layer: [B, H, capacity, D]
  std::vector<at::Tensor> values_;  // likewise
  int64_t capacity_;
  int64_t length_ = 0;
};

struct AttentionOptions {
  int64_t num_heads = 1;
  bool is_causal = true;   // whether a token sees only itself and those before it
  int64_t layer = 0;       // names the layer to ForwardContext::cache
  double dropout = 0;      // of attention weights
  uint32_t operation = 0;  // names the dropout to ForwardContext::draw
};

// Multi-head attention of each token over those it sees, scaled by 1/sqrt(head size). With a cache,
// which is for causal attention, they include what the cache has seen; T is then 1, or the cache
// empty.
//
//   qkv     [B, T, 3C]  queries, keys and values side by side
//   bias    [3C]        added to qkv first
//   result  [B, T, C]
at::Tensor attention(const at::Tensor& qkv, const at::Tensor& bias, const AttentionOptions& options,
                     const ForwardContext& context);

}  // namespace outstep::nn
