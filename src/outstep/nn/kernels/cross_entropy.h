#pragma once

#include "outstep/base/torch.h"

namespace outstep::nn::kernels {

// Mean cross-entropy of rows of logits [N, K] (float32 or bfloat16) and classes [N] (int64, in [0,
// K)), in float32, with the given share of each target spread over all classes. The fused form
// keeps no table of probabilities.
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& classes, double smoothing);
at::Tensor cross_entropy_plain(const at::Tensor& logits, const at::Tensor& classes,
                               double smoothing);

// The same of probabilities of classes [N, K'] in place of a class, with K' <= K: classes beyond
// have none.
at::Tensor soft_cross_entropy(const at::Tensor& logits, const at::Tensor& probabilities,
                              double smoothing);

}  // namespace outstep::nn::kernels
