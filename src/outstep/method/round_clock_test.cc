#include "outstep/method/round_clock.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace outstep::method {
namespace {

constexpr double kRounding = 1e-9;

// A third of a micro-batch is forward; the first gradient is final soon after.
ReplicaPace pace(double seconds) {
  return {.micro_batch_seconds = seconds,
          .forward_seconds = seconds / 3,
          .ready_seconds = seconds * 0.6};
}

std::vector<RoundLength> fixed(const std::vector<int64_t>& counts) {
  std::vector<RoundLength> rounds;
  for (const int64_t count : counts) rounds.push_back({.at_least = count, .is_fixed = true});
  return rounds;
}

const std::vector<RoundLength> kDynamic = {{.at_least = 1}, {.at_least = 1}};

// Two replicas, a second a micro-batch; each half of a round's communication takes c / 2.
RoundClockOptions clock(double c, Overlap overlap, const std::vector<RoundLength>& lengths) {
  RoundClockOptions options{.overlap = overlap, .replicas = {pace(1), pace(1)}};
  for (const RoundLength& length : lengths) {
    options.rounds.push_back(
        {.length = length, .reduce_scatter_seconds = c / 2, .all_gather_seconds = c / 2});
  }
  return options;
}
// With two micro-batches a step.
RoundClockOptions lockstep(double c, Overlap overlap = Overlap::none) {
  return clock(c, overlap, fixed({2}));
}
RoundClockOptions acco(double c) { return clock(c, Overlap::everything, fixed({1, 1})); }
RoundClockOptions dpu(double c) { return clock(c, Overlap::everything, fixed({2})); }

TEST(RoundClock, LockstepAddsUp) {
  RoundClockOptions options = lockstep(0.5);
  options.update_seconds = 0.25;
  const RoundTimes times = simulate(options);
  EXPECT_NEAR(times.commit_seconds, 2.75, kRounding);
  EXPECT_NEAR(times.seconds_per_micro_batch, 2.75 / 4, kRounding);
  EXPECT_EQ(times.micro_batches, (std::vector<double>{2, 2}));
  EXPECT_NEAR(times.idle_seconds[0], 0.5, kRounding);
}

TEST(RoundClock, BackwardHidesGradientsButForItsLastBucket) {
  RoundClockOptions options = lockstep(0.5);
  options.overlap = Overlap::backward;
  EXPECT_NEAR(simulate(options).commit_seconds, 2, kRounding);
  options.first_layer_seconds = 0.2;
  EXPECT_NEAR(simulate(options).commit_seconds, 2.2, kRounding);
  options.rounds[0].all_gather_seconds = 0.75;  // 1 in all, 0.8 of it beside 0.6 of backward
  EXPECT_NEAR(simulate(options).commit_seconds, 2.4, kRounding);
}

TEST(RoundClock, ForwardHidesParametersButForItsFirstBucket) {
  RoundClockOptions options = lockstep(0.6);
  options.overlap = Overlap::backward_and_forward;
  EXPECT_NEAR(simulate(options).commit_seconds, 2, kRounding);
  options.first_layer_seconds = 0.1;
  EXPECT_NEAR(simulate(options).commit_seconds, 2.2, kRounding);
  options.rounds[0].all_gather_seconds = 0.1 + 1.0 / 3 + 0.4;
  EXPECT_NEAR(simulate(options).commit_seconds, 2.6, kRounding);
}

TEST(RoundClock, WithoutDelayAllMethodsAreLockstep) {
  const RoundTimes expected = simulate(lockstep(0));
  for (const RoundClockOptions& options :
       {acco(0), dpu(0), clock(0, Overlap::everything, kDynamic), lockstep(0, Overlap::backward),
        lockstep(0, Overlap::backward_and_forward)}) {
    const RoundTimes times = simulate(options);
    EXPECT_NEAR(times.commit_seconds, expected.commit_seconds, kRounding);
    EXPECT_EQ(times.micro_batches, expected.micro_batches);
    EXPECT_EQ(times.idle_seconds, (std::vector<double>{0, 0}));
  }
}

// Where a round's communication takes as long as its micro-batch, lockstep takes half as long
// again.
TEST(RoundClock, AccoIsHalfAsFastAgainAsLockstepAtBest) {
  const auto gain = [](double c) {
    return simulate(lockstep(c)).seconds_per_micro_batch /
           simulate(acco(c)).seconds_per_micro_batch;
  };
  EXPECT_NEAR(gain(1), 1.5, kRounding);
  EXPECT_NEAR(gain(0.5), 1.25, kRounding);
  EXPECT_NEAR(gain(4), 0.75, kRounding);  // it sends twice as much a step
}

TEST(RoundClock, DynamicCountsGrowWhenCommunicationOutlastsTheLeast) {
  double former_count = 0;
  for (const double c : {0.1, 1.0, 1.5, 2.0, 5.0, 7.5}) {
    RoundClockOptions options = clock(c, Overlap::everything, kDynamic);
    const RoundTimes times = simulate(options);
    EXPECT_NEAR(times.micro_batches[0], 2 * std::max(std::ceil(c), 1.0), kRounding) << c;
    EXPECT_NEAR(times.idle_seconds[0], 0, kRounding) << c;
    EXPECT_NEAR(times.seconds_per_micro_batch, 0.5, kRounding) << c;
    EXPECT_GE(times.micro_batches[0], former_count);
    former_count = times.micro_batches[0];
  }
  const RoundLength length{.at_least = 2, .at_most = 3};
  const RoundClockOptions bounded = clock(5, Overlap::everything, {length, length});
  EXPECT_NEAR(simulate(bounded).micro_batches[1], 6, kRounding);
  EXPECT_NEAR(simulate(bounded).idle_seconds[1], 4, kRounding);
}

// Its gradient travels once a commit, beside all of its computing: nothing is faster.
TEST(RoundClock, DpuIsTheBound) {
  for (const double c : {0.0, 0.7, 1.0, 2.0, 3.5}) {
    const double bound = simulate(dpu(c)).commit_seconds;
    EXPECT_NEAR(bound, std::max(2.0, c), kRounding);
    for (const Overlap overlap :
         {Overlap::none, Overlap::backward, Overlap::backward_and_forward}) {
      EXPECT_GE(simulate(lockstep(c, overlap)).commit_seconds, bound);
    }
    EXPECT_GE(simulate(acco(c)).commit_seconds, bound);
  }
}

// Gradients a second of replicas of which one is slower by `factor`, against lockstep.
double gain_with_a_straggler(size_t num_replicas, double factor) {
  RoundClockOptions acco = clock(0, Overlap::everything, kDynamic);
  acco.replicas.assign(num_replicas, pace(1));
  acco.replicas.back() = pace(factor);
  RoundClockOptions lockstep = clock(0, Overlap::none, fixed({1}));
  lockstep.replicas = acco.replicas;
  const RoundTimes times = simulate(acco);
  EXPECT_NEAR(times.micro_batches.back(), 2, kRounding);  // the slow one adds the least there is
  EXPECT_NEAR(times.idle_seconds.front() / times.commit_seconds, 0, 0.01);
  return simulate(lockstep).seconds_per_micro_batch / times.seconds_per_micro_batch;
}

// In the time of one slow micro-batch three replicas add four each and the slow one its own: 13,
// where lockstep adds 4.
TEST(RoundClock, OthersDoNotWaitForASlowReplica) {
  EXPECT_NEAR(gain_with_a_straggler(4, 4), 3.25, 0.05 * 3.25);
  EXPECT_NEAR(gain_with_a_straggler(2, 4), 2.5, 0.05 * 2.5);
  EXPECT_NEAR(gain_with_a_straggler(4, 1), 1, kRounding);
}

void expect_monotone(Overlap overlap, const std::vector<RoundLength>& lengths,
                     const std::vector<ReplicaPace>& replicas) {
  double former = 0;
  for (int tenths = 0; tenths <= 60; ++tenths) {
    RoundClockOptions options = clock(tenths / 10.0, overlap, lengths);
    options.replicas = replicas;
    options.first_layer_seconds = tenths / 100.0;
    options.update_seconds = 0.05;
    const double seconds = simulate(options).commit_seconds;
    EXPECT_GE(seconds, former - kRounding) << tenths;
    former = seconds;
  }
}

// With dynamic counts, replicas of different pace are left out: one that just misses the end of a
// round adds a whole micro-batch.
TEST(RoundClock, ASlowerLinkNeverMakesACommitShorter) {
  const std::vector<ReplicaPace> unequal = {pace(1), pace(1.7), pace(0.6)};
  for (const Overlap overlap :
       {Overlap::none, Overlap::backward, Overlap::backward_and_forward, Overlap::everything}) {
    expect_monotone(overlap, fixed({3}), unequal);
  }
  expect_monotone(Overlap::everything, fixed({1, 2}), unequal);
  expect_monotone(Overlap::everything, kDynamic, {pace(1)});
  expect_monotone(Overlap::everything, {{.at_least = 1, .at_most = 2}, {.at_least = 2}}, {pace(1)});
}

// acco's estimates may travel in fewer bits than its commits.
TEST(RoundClock, RoundsOfACommitMayDiffer) {
  RoundClockOptions options = acco(2);
  options.rounds[0].all_gather_seconds = 0.25;
  EXPECT_NEAR(simulate(options).commit_seconds, 1.25 + 2, kRounding);
}

}  // namespace
}  // namespace outstep::method
