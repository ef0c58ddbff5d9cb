#pragma once

#include "outstep/base/torch.h"

// Layer norm over the last dim, and the additions to a residual stream around it. x [N, C] float32;
// gain, bias and addend_bias [C] float32. Normed rows come in the type that autocast's matrix
// products would cast them to anyway.

namespace outstep::nn::kernels {

struct NormOptions {
  at::Tensor gain;
  at::Tensor bias;
  double epsilon = 1e-5;
};

at::Tensor layer_norm(const at::Tensor& x, const NormOptions& norm);
at::Tensor layer_norm_plain(const at::Tensor& x, const NormOptions& norm);

// sum = x + (addend + addend_bias), float32, and the layer norm of the sum. addend [N, C] is
// float32 or bfloat16.
struct AddedNorm {
  at::Tensor sum;
  at::Tensor normed;
};
AddedNorm add_layer_norm(const at::Tensor& x, const at::Tensor& addend,
                         const at::Tensor& addend_bias, const NormOptions& norm);
AddedNorm add_layer_norm_plain(const at::Tensor& x, const at::Tensor& addend,
                               const at::Tensor& addend_bias, const NormOptions& norm);

// x + (addend + bias), float32.
at::Tensor add_biased(const at::Tensor& x, const at::Tensor& addend, const at::Tensor& bias);
at::Tensor add_biased_plain(const at::Tensor& x, const at::Tensor& addend, const at::Tensor& bias);

}  // namespace outstep::nn::kernels
