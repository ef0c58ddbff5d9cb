#include "outstep/nn/coupling.h"

#include "outstep/base/errors.h"

namespace outstep::nn {
namespace {

at::Tensor as_leaf(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_floating_point()) return tensor;
  return tensor.detach().requires_grad_();
}

at::Tensor gradient_of(const at::Tensor& leaf) {
  if (!leaf.defined() || !leaf.requires_grad()) return {};
  return leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf);
}

// f(x) with a graph, from a leaf x.
struct Evaluation {
  at::Tensor x;
  at::Tensor f;
};

Evaluation evaluate(Coupling& block, const at::Tensor& x, ForwardContext& context) {
  const at::AutoGradMode grad_mode(true);
  const at::Tensor leaf = as_leaf(x);
  return {.x = leaf, .f = block.residual(leaf, context)};
}

// While it lives, operators run in the type of what they are given: what goes back through a graph
// does not choose anew.
class OutsideAutocast {
 public:
  explicit OutsideAutocast(const at::Tensor& tensor)
      : device_(tensor.device().type()), was_enabled_(at::autocast::is_autocast_enabled(device_)) {
    at::autocast::set_autocast_enabled(device_, false);
  }
  ~OutsideAutocast() { at::autocast::set_autocast_enabled(device_, was_enabled_); }
  OutsideAutocast(const OutsideAutocast&) = delete;
  OutsideAutocast& operator=(const OutsideAutocast&) = delete;

 private:
  const at::DeviceType device_;
  const bool was_enabled_;
};

Streams differentiate(const Evaluation& at, const Streams& gradient) {
  const OutsideAutocast outside(at.f);
  torch::autograd::backward({at.f}, {gradient.x});
  const at::Tensor through_f = at.x.grad();
  return {.x = through_f.defined() ? gradient.other.add(through_f) : gradient.other,
          .other = gradient.x};
}

}  // namespace

Streams Coupling::forward(const Streams& input, ForwardContext& context) {
  check(input.are_two(), "a coupling has two streams");
  return {.x = residual(input.x, context).add(input.other), .other = input.x};
}

Streams Coupling::inverse(const Streams& output, ForwardContext& context) {
  check(output.are_two(), "a coupling has two streams");
  const at::NoGradGuard no_grad;
  return {.x = output.other, .other = output.x.sub(residual(output.other, context))};
}

Backward rebuild_and_differentiate(Coupling& block, const Streams& output, const Streams& gradient,
                                   ForwardContext& context) {
  check(output.are_two(), "a coupling has two streams");
  const Evaluation at = evaluate(block, output.other, context);
  return {.input = {.x = output.other, .other = output.x.sub(at.f.detach())},
          .gradient = differentiate(at, gradient)};
}

Streams differentiate_coupling(Coupling& block, const at::Tensor& x, const Streams& gradient,
                               ForwardContext& context) {
  return differentiate(evaluate(block, x, context), gradient);
}

Streams differentiate(Block& block, const Streams& input, const Streams& gradient,
                      ForwardContext& context, BackwardOptions options) {
  const at::AutoGradMode grad_mode(true);
  const Streams leaves = options.wants_gradient ? as_leaves(input) : input;
  backward(block.forward(leaves, context), gradient);
  return options.wants_gradient ? gradients_of(leaves) : Streams{};
}

at::Tensor as_stream(const at::Tensor& tensor) {
  const bool is_low = tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
  return is_low ? tensor.to(at::kFloat) : tensor;
}

Streams detached(const Streams& streams) {
  return {.x = streams.x.detach(),
          .other = streams.are_two() ? streams.other.detach() : at::Tensor()};
}

Streams as_leaves(const Streams& streams) {
  return {.x = as_leaf(streams.x), .other = as_leaf(streams.other)};
}

Streams gradients_of(const Streams& leaves) {
  return {.x = gradient_of(leaves.x), .other = gradient_of(leaves.other)};
}

void backward(const Streams& output, const Streams& gradient) {
  const OutsideAutocast outside(output.x);
  if (output.are_two()) {
    torch::autograd::backward({output.x, output.other}, {gradient.x, gradient.other});
  } else {
    torch::autograd::backward({output.x}, {gradient.x});
  }
}

}  // namespace outstep::nn
