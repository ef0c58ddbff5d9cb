#pragma once

#include <deque>
#include <span>
#include <vector>

#include "outstep/comm/group.h"

namespace outstep::comm {

// A few numbers from every rank to every rank, without waiting: posted in one step, collected in a
// later one.
//
//   Exchange exchange(group, 3, {.tag = 5, .what = "step statistics"});
//   exchange.post({{loss_sum, num_losses, wants_to_stop}});
//   … the next step …
//   for (const std::vector<double>& of_rank : exchange.collect()) …
//
// Rounds are collected in the order in which they were posted; any number may be under way. All
// ranks post and collect alike. The group outlives the exchange and its tag is used for nothing
// else. One thread at a time.
class Exchange {
 public:
  Exchange(Group& group, int num_values, CallOptions options);

  void post(std::span<const double> values);  // num_values of them
  // Of the oldest round: by rank, this one's own among them. Waits until all have posted it; throws
  // CommError.
  std::vector<std::vector<double>> collect();
  size_t num_pending() const { return rounds_.size(); }

 private:
  struct Round {
    at::Tensor values;  // [ranks, num_values] float64; the own row is sent, the others arrive
    std::vector<Work> works;
  };

  Group& group_;
  const int num_values_;
  const CallOptions options_;
  std::deque<Round> rounds_;
};

}  // namespace outstep::comm
