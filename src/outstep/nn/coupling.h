#pragma once

#include "outstep/nn/block.h"

// Reversible blocks, and how a block is differentiated by itself.
//
// A coupling maps two streams to two: y = f(x) + x̃, ỹ = x. Its input follows from its output, x =
// ỹ, x̃ = y - f(ỹ), so nothing need be kept for the backward pass; and the evaluation of f that
// rebuilds x̃ also makes the graph to differentiate: one f forward and one f backward (PETRA, arXiv
// 2406.02052; Gomez et al. 2017). The two-sided coupling of RevNet and Reformer, y₁ = x₁ + F(x₂),
// y₂ = x₂ + G(y₁), is two of these in a row.
//
// Precision: what f computes in lower precision must be the same the second time; the streams and
// their difference stay in the type they came in.

namespace outstep::nn {

class Coupling : public Block {
 public:
  // y = f(x) + x̃, ỹ = x.
  Streams forward(const Streams& input, ForwardContext& context) final;
  // f(x; θ). What it draws depends on the context alone, so that a second evaluation draws the
  // same.
  virtual at::Tensor residual(const at::Tensor& x, ForwardContext& context) = 0;

  // x = ỹ, x̃ = y - f(ỹ), without a graph.
  Streams inverse(const Streams& output, ForwardContext& context);
  bool is_reversible() const final { return true; }

 protected:
  using Block::Block;
};

// A block's input, and the loss's gradient with respect to it.
struct Backward {
  Streams input;
  Streams gradient;  // empty where none was asked for
};

struct BackwardOptions {
  // Of the input: the first block of a model has none that anybody wants.
  bool wants_gradient = true;
};

// Rebuilds a coupling's input from its output and differentiates there, evaluating f once. Adds to
// the gradients of its parameters.
//
//   δ_x̃ = δ_y,   δ_x = δ_ỹ + (∂f/∂x)ᵀ δ_y,   Δθ = (∂f/∂θ)ᵀ δ_y
Backward rebuild_and_differentiate(Coupling& block, const Streams& output, const Streams& gradient,
                                   ForwardContext& context);

// The same of a coupling at an input that is known, so that x̃ is not needed.
Streams differentiate_coupling(Coupling& block, const at::Tensor& x, const Streams& gradient,
                               ForwardContext& context);

// Differentiates any block at a known input: evaluates it with a graph, and goes back through that.
// Adds to the gradients of its parameters.
Streams differentiate(Block& block, const Streams& input, const Streams& gradient,
                      ForwardContext& context, BackwardOptions options = {});

// What autocast has made of a stream, in float32 again: the difference of streams must be exact
// enough to be undone.
at::Tensor as_stream(const at::Tensor& tensor);
// The same numbers, of no graph.
Streams detached(const Streams& streams);
// As a leaf of a graph of its own; integers, which have no gradient, as they are.
Streams as_leaves(const Streams& streams);
// What a backward pass has left in leaves. Zeros where nothing came; undefined stays so.
Streams gradients_of(const Streams& leaves);
// Goes back through the graph of output.
void backward(const Streams& output, const Streams& gradient);

}  // namespace outstep::nn
