#pragma once

#include <cstdint>
#include <vector>

#include "outstep/method/rounds.h"

// The steps of a data-parallel run on a virtual clock, as values: what a synchronizer's way of
// overlapping makes of given times of computing and of a link. For `outstep plan`, and for tests of
// claims about speed that do not depend on this machine's.
//
//   const ClockRound round{.length = {.at_least = 1}, .reduce_scatter_seconds = 0.2,
//                          .all_gather_seconds = 0.2};
//   const RoundTimes times = simulate({.overlap = Overlap::everything, .rounds = {round, round},
//                                      .replicas = {{.micro_batch_seconds = 0.1}}});
//   times.commit_seconds;  // acco's, 0.8: two rounds, in which four micro-batches each fit
//
// Computing and communication do not slow each other down here, and a collective begins when the
// last replica has come.

namespace outstep::method {

// How fast one replica computes.
struct ReplicaPace {
  double micro_batch_seconds = 0;  // forward and backward
  double forward_seconds = 0;      // the part in which parameters are still awaited layer by layer
  double ready_seconds = 0;        // the part after the first final gradient
};

struct ClockRound {
  RoundLength length = {.is_fixed = true};  // of each replica
  // An all-reduce is both, and wholly of gradients.
  double reduce_scatter_seconds = 0;
  double all_gather_seconds = 0;
};

struct RoundClockOptions {
  Overlap overlap = Overlap::none;
  // Of a commit. One, but for acco, which has two. Without Overlap::everything its length is fixed.
  std::vector<ClockRound> rounds = {};
  std::vector<ReplicaPace> replicas = {};
  // Of gradients as of parameters: the bucket at the start of the model, which nothing hides. Its
  // gradients are final when backward is over, and forward begins with its parameters.
  double first_layer_seconds = 0;
  double update_seconds = 0;  // of a round
  int64_t num_commits = 64;   // after those of the start, over which the results are means
};

// Means over commits.
struct RoundTimes {
  double commit_seconds = 0;
  double seconds_per_micro_batch = 0;  // of all replicas together
  // Of each replica in a commit.
  std::vector<double> micro_batches = {};
  std::vector<double> idle_seconds = {};  // in which it neither computed nor updated
};

RoundTimes simulate(const RoundClockOptions& options);

}  // namespace outstep::method
