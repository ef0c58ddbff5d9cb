#pragma once

#include <span>
#include <vector>

#include "outstep/comm/group.h"
#include "outstep/ensemble/plan.h"

namespace outstep::ensemble {

// A vector that lies over elements [begin, begin + its length) of the flat index: the parameters,
// or a moment of the optimizer, of which a rank may hold a part.
struct Lane {
  at::Tensor values;
  int64_t begin = 0;
};

// One rank's part of a plan: one gather from the lanes, one all-to-all, one scatter into them. Both
// sides know how much travels; the same position of all lanes travels together, and what stays
// where it is does not travel.
//
//   Shuffle shuffle(plan, group.rank(), lanes);
//   shuffle.unpack(shuffle.exchange(group, shuffle.pack(), options), lanes);
//
// The lanes of all members have the same ranges and types. Messages and index tensors lie on the
// lanes' device. A value: it holds no lane.
class Shuffle {
 public:
  Shuffle(const Plan& plan, int member, std::span<const Lane> lanes);

  at::Tensor pack(std::span<const Lane> lanes) const;  // [sent], by destination
  // Collective over the members.
  at::Tensor exchange(comm::Group& group, const at::Tensor& packed,
                      const comm::CallOptions& options) const;  // [received], by source
  void unpack(const at::Tensor& received, std::span<const Lane> lanes) const;

  // The delayed form. What a lane has where something is to arrive, as in a received message; and
  // what adds a difference there: sums over the members stay what they are, whatever has happened
  // to the lanes in between.
  at::Tensor pack_incoming(std::span<const Lane> lanes) const;
  void add(const at::Tensor& difference, std::span<const Lane> lanes) const;

  // Of the first lane: how many of its elements take another member's value.
  int64_t num_moved() const { return lanes_.front().incoming.numel(); }

 private:
  struct OfLane {
    at::Tensor outgoing;  // [moved] int64, into the lane, by destination, then ascending
    at::Tensor incoming;  // [moved] int64, by source
    std::vector<int64_t> num_outgoing, num_incoming;  // by member
  };
  // A message holds, for each member, one lane after the other.
  at::Tensor gather(std::span<const Lane> lanes, at::Tensor OfLane::* indices,
                    std::vector<int64_t> OfLane::* counts) const;
  std::vector<at::Tensor> by_lane(const at::Tensor& received) const;

  comm::Splits splits_;
  std::vector<OfLane> lanes_;
};

}  // namespace outstep::ensemble
