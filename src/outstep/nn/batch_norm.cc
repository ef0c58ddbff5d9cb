#include "outstep/nn/batch_norm.h"

#include "outstep/nn/kernels/batch_norm.h"

namespace outstep::nn {
namespace {

at::Tensor norm_in_training(const at::Tensor& x, const BatchNorm& norm,
                            const ForwardContext& context, bool relu, const at::Tensor& residual) {
  kernels::BatchNormOptions options{.gain = norm.weight->tensor,
                                    .bias = norm.bias->tensor,
                                    .momentum = context.statistics_rate,
                                    .epsilon = BatchNorm::kEpsilon,
                                    .relu = relu,
                                    .residual = residual};
  if (context.moves_statistics) {
    options.running_mean = norm.running_mean->tensor;
    options.running_var = norm.running_var->tensor;
  }
  return kernels::batch_norm(x, options);
}

at::Tensor norm_in_evaluation(const at::Tensor& x, const BatchNorm& norm) {
  return at::batch_norm(x, norm.weight->tensor, norm.bias->tensor, norm.running_mean->tensor,
                        norm.running_var->tensor,
                        /*training=*/false, /*momentum=*/0, BatchNorm::kEpsilon,
                        /*cudnn_enabled=*/true);
}

}  // namespace

at::Tensor batch_norm(const at::Tensor& x, const BatchNorm& norm, const ForwardContext& context) {
  return context.training ? norm_in_training(x, norm, context, /*relu=*/false, {})
                          : norm_in_evaluation(x, norm);
}

at::Tensor batch_norm_relu(const at::Tensor& x, const BatchNorm& norm,
                           const ForwardContext& context) {
  return context.training ? norm_in_training(x, norm, context, /*relu=*/true, {})
                          : at::relu(norm_in_evaluation(x, norm));
}

at::Tensor batch_norm_add_relu(const at::Tensor& x, const at::Tensor& residual,
                               const BatchNorm& norm, const ForwardContext& context) {
  return context.training ? norm_in_training(x, norm, context, /*relu=*/true, residual)
                          : at::relu(norm_in_evaluation(x, norm).add(residual));
}

}  // namespace outstep::nn
