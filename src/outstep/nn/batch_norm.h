#pragma once

#include "outstep/nn/block.h"

namespace outstep::nn {

// Batch normalisation over [B, H, W] of each channel (Ioffe & Szegedy 2015), with torch's defaults.
// In training it uses the batch's statistics and moves the running ones towards them, unless the
// context says not to; otherwise it uses the running ones.
struct BatchNorm {
  static constexpr double kEpsilon = 1e-5;

  Parameter* weight;     // [C]
  Parameter* bias;       // [C]
  Buffer* running_mean;  // [C]; written by a forward pass in training
  Buffer* running_var;   // [C]; likewise
};

at::Tensor batch_norm(const at::Tensor& x, const BatchNorm& norm, const ForwardContext& context);
// relu(batch_norm(x)), and relu(batch_norm(x) + residual).
at::Tensor batch_norm_relu(const at::Tensor& x, const BatchNorm& norm,
                           const ForwardContext& context);
at::Tensor batch_norm_add_relu(const at::Tensor& x, const at::Tensor& residual,
                               const BatchNorm& norm, const ForwardContext& context);

}  // namespace outstep::nn
