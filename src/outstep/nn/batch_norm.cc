#include "outstep/nn/batch_norm.h"

namespace outstep::nn {

at::Tensor batch_norm(const at::Tensor& x, const BatchNorm& norm, const ForwardContext& context) {
  return at::batch_norm(x, norm.weight->tensor, norm.bias->tensor, norm.running_mean->tensor,
                        norm.running_var->tensor, context.training, BatchNorm::kMomentum,
                        BatchNorm::kEpsilon, /*cudnn_enabled=*/true);
}

at::Tensor batch_norm_relu(const at::Tensor& x, const BatchNorm& norm,
                           const ForwardContext& context) {
  return at::relu(batch_norm(x, norm, context));
}

at::Tensor batch_norm_add_relu(const at::Tensor& x, const at::Tensor& residual,
                               const BatchNorm& norm, const ForwardContext& context) {
  return at::relu(batch_norm(x, norm, context).add_(residual));
}

}  // namespace outstep::nn
