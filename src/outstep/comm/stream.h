#pragma once

#include <vector>

#include "outstep/comm/group.h"

// A vector on its way between two ranks, cut into segments of which at most a window is under way
// at once.

namespace outstep::comm {

struct Segments {
  int64_t length = 0;  // elements of a full segment
  int64_t window = 0;  // segments under way at once

  int64_t count(int64_t num_elements) const { return (num_elements + length - 1) / length; }
};

// The receiving end. Segments are taken and released in order.
class Incoming {
 public:
  // Posts the first window of receives. Segments land in landing [length] where it is defined,
  // which needs the wire's dtype, else in slots of this stream that are reused after release().
  Incoming(Group& group, int peer, int64_t length, at::ScalarType wire, Segments cut,
           at::Tensor landing, const CallOptions& options);

  int64_t count() const { return count_; }
  at::Tensor take(int64_t segment);  // waits for it; may be used until release
  void release(int64_t segment);     // posts the receive that is a window later

 private:
  at::Tensor place(int64_t segment) const;
  void post(int64_t segment);

  Group& group_;
  const int peer_;
  const int64_t length_;
  const Segments cut_;
  const int64_t count_;
  const CallOptions options_;
  at::Tensor landing_;  // [length], or [window * segment length] of slots
  bool lands_in_place_;
  std::vector<Work> works_;  // by slot
};

// The sending end. Where the wire's dtype is not the vector's, segments are packed when they are
// posted.
class Outgoing {
 public:
  Outgoing(Group& group, int peer, at::Tensor vector, at::ScalarType wire, Segments cut,
           const CallOptions& options);

  int64_t count() const { return count_; }
  // At most a window beyond the last one waited for; beyond the end: nothing.
  void post(int64_t segment);
  void wait(int64_t segment);

 private:
  Group& group_;
  const int peer_;
  const at::Tensor vector_;
  const Segments cut_;
  const int64_t count_;
  const CallOptions options_;
  at::Tensor slots_;         // [window * segment length], only where segments are packed
  std::vector<Work> works_;  // by slot
};

// Peers as seen from a rank: starting with its neighbour, so that not all ranks write to rank 0
// first.
inline int peer_after(const Group& group, int distance) {
  return (group.rank() + distance) % group.size();
}
inline int peer_before(const Group& group, int distance) {
  return (group.rank() - distance + group.size()) % group.size();
}

// Segment s of a vector.
at::Tensor segment_of(const at::Tensor& vector, int64_t segment, const Segments& cut);

}  // namespace outstep::comm
