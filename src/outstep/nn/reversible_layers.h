#pragma once

#include <memory>
#include <string>
#include <vector>

#include "outstep/nn/coupling.h"
#include "outstep/nn/gpt2.h"

// The inside of a reversible transformer: GPT-2's layers as two couplings each, as Reformer (arXiv
// 2001.04451) has them.
//
//   y₁ = x₁ + attention(norm(x₂)),   y₂ = x₂ + mlp(norm(y₁))

namespace outstep::nn {

struct ReversibleLayersOptions {
  Gpt2Options sizes = {};  // of them what a layer has: n_embd, n_layer, n_head, n_inner, …
  bool is_causal = true;   // whether a token sees only itself and those before it
};

// "transformer.h.0.attn", "transformer.h.0.mlp", "transformer.h.1.attn", … Parameters have GPT-2's
// names and shapes. Streams are [B, T, n_embd].
std::vector<std::unique_ptr<Block>> make_reversible_layers(const ReversibleLayersOptions& options);

// What a head reads of the two streams: their "mean", or both side by side, "concat".
at::Tensor joined(const Streams& streams, const std::string& head);

}  // namespace outstep::nn
