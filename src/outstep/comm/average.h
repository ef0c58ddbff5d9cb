#pragma once

#include "outstep/comm/group.h"

namespace outstep::comm {

// Every rank's tensor, of floating point, becomes the mean over all ranks: their sum in rank order,
// divided once. Collective; group of one and empty tensors cost nothing.
inline void average(Group& group, const at::Tensor& tensor, CallOptions options = {}) {
  if (group.size() == 1 || tensor.numel() == 0) return;
  group.all_reduce(tensor, options);
  tensor.div_(group.size());
}

}  // namespace outstep::comm
