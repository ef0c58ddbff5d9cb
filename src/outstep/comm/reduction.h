#pragma once

#include <functional>
#include <vector>

#include "outstep/comm/stream.h"

namespace outstep::comm {

// Every rank sends each rank a vector and sums, in rank order, the vectors it gets. It knows its
// own already.
struct Reduction {
  Group& group;
  std::vector<at::Tensor> outgoing;  // by rank; [own rank] is the own term
  at::Tensor output;                 // may be the own term
  at::ScalarType wire;
  Segments cut;
  bool is_rounded = false;  // the sum itself to bfloat16
  // What else to do with a segment: when it is on its way to all peers, and when it is summed.
  std::function<void(int64_t)> on_sent = [](int64_t) {};
  std::function<void(int64_t)> on_summed = [](int64_t) {};
};

// Returns when the output is written and all segments are on their way.
void run_reduction(Reduction& reduction, const CallOptions& options);

}  // namespace outstep::comm
