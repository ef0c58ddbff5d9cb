#include "outstep/nn/dropout.h"

namespace outstep::nn {

at::Tensor dropout(const at::Tensor& x, double probability, const ForwardContext& context,
                   uint32_t operation) {
  if (!context.training || probability <= 0) return x;
  at::Tensor mask = at::empty(x.sizes(), at::kFloat);
  fill_uniform(mask, 0, 1, context.draw(operation));
  mask = mask.ge(probability).to(x.options()).mul_(1 / (1 - probability));
  return x.mul(mask);
}

}  // namespace outstep::nn
