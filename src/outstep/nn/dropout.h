#pragma once

#include "outstep/nn/block.h"

namespace outstep::nn {

// Zeroes each element with the given probability and scales the others by 1/(1 - probability), in
// training; outside it returns x. Whether element i is kept is a function of the context's key for
// the operation and of i alone.
at::Tensor dropout(const at::Tensor& x, double probability, const ForwardContext& context,
                   uint32_t operation);

}  // namespace outstep::nn
