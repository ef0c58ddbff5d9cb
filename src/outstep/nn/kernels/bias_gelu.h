#pragma once

#include "outstep/base/torch.h"

namespace outstep::nn::kernels {

// gelu(x + bias) in the tanh approximation (transformers' gelu_new), of rows x [N, C] and bias [C].
at::Tensor bias_gelu(const at::Tensor& x, const at::Tensor& bias);
at::Tensor bias_gelu_plain(const at::Tensor& x, const at::Tensor& bias);

}  // namespace outstep::nn::kernels
