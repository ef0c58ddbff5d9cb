#pragma once

#include "outstep/base/torch.h"

namespace outstep::nn::kernels {

// Batch norm in training, what follows it in a residual network included:
//
//   y = norm(x)      y = relu(norm(x))      y = relu(norm(x) + residual)
//
// x and residual [B, C, H, W] float32 or bfloat16 (fused where channels are last and C is a
// multiple of 16); gain, bias [C] float32 with gradients; the running statistics [C] float32 are
// moved towards the batch's.
struct BatchNormOptions {
  at::Tensor gain, bias;
  at::Tensor running_mean = {}, running_var = {};  // written; undefined: nothing moves
  double momentum = 0.1;
  double epsilon = 1e-5;
  bool relu = false;
  at::Tensor residual = {};  // undefined: none; needs relu
};

at::Tensor batch_norm(const at::Tensor& x, const BatchNormOptions& options);
at::Tensor batch_norm_plain(const at::Tensor& x, const BatchNormOptions& options);

}  // namespace outstep::nn::kernels
