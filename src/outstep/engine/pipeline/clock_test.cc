#include "outstep/engine/pipeline/clock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace outstep::engine {
namespace {

// Stages of one unit forward and two backward; those before the last of PETRA evaluate again.
std::vector<PassTimes> equal_stages(int num_stages, double backward) {
  return std::vector<PassTimes>(static_cast<size_t>(num_stages),
                                {.forward_seconds = 1, .backward_seconds = backward});
}

TEST(Clock, FlushedSchedulesHaveTheirKnownBubble) {
  // (J - 1) / (k + J - 1) of the time for both GPipe and 1F1B.
  for (const Order order : {Order::all_forward, Order::one_forward}) {
    for (const int J : {2, 4, 8}) {
      for (const int64_t k : {1, 4, 16}) {
        const Schedule schedule{.order = order, .num_stages = J, .flush_every = k};
        const Timeline timeline = simulate(schedule, equal_stages(J, 2), k);
        EXPECT_NEAR(timeline.seconds(), 3.0 * double(k + J - 1), 1e-9);
        EXPECT_NEAR(timeline.bubble_fraction(0), double(J - 1) / double(k + J - 1), 1e-9);
        EXPECT_EQ(timeline.most_in_flight(0),
                  order == Order::all_forward ? k : std::min<int64_t>(k, J));
      }
    }
  }
}

TEST(Clock, TicksHaveNoBubbleOnceTheyAreFull) {
  for (const int J : {1, 2, 4, 8, 18}) {
    const Schedule schedule{.order = Order::ticks, .num_stages = J};
    const Timeline timeline = simulate(schedule, equal_stages(J, 3), 8 * J);
    // 4 units a tick: 3 J / 4 times as fast as one process that backpropagates (3 units a stage).
    EXPECT_NEAR(timeline.seconds_per_micro_batch(4 * J), 4, 1e-9) << J;
    EXPECT_NEAR(timeline.bubble_fraction(4 * J), 0, 1e-9) << J;
    for (int stage = 0; stage < J; ++stage) {
      EXPECT_EQ(timeline.most_in_flight(stage), schedule.delay(stage) + 1);
    }
  }
}

TEST(Clock, TheSlowestStageSetsThePace) {
  const Schedule schedule{.order = Order::ticks, .num_stages = 3};
  const std::vector<PassTimes> stages = {{1, 3, 0.5}, {2, 6, 0.5, 0.5}, {1, 2, 0, 0.5}};
  const Timeline timeline = simulate(schedule, stages, 60);
  EXPECT_NEAR(timeline.seconds_per_micro_batch(30), 8, 1e-9);
  double busy = 0;
  for (const Pass& pass : timeline.passes) {
    if (pass.stage == 1) busy += pass.end - pass.begin;
  }
  EXPECT_NEAR(busy, 60 * 8 + 2 * 2, 1e-9);  // two more are on their way
}

// Messages of a stage go one after the other, both ways.
TEST(Clock, ASlowLinkSetsThePace) {
  const Schedule schedule{.order = Order::ticks, .num_stages = 3};
  const std::vector<PassTimes> stages = {{1, 3, 2}, {1, 3, 5, 4}, {1, 2, 0, 1}};
  EXPECT_NEAR(simulate(schedule, stages, 120).seconds_per_micro_batch(60), 9, 1e-9);
  // What travels while the stage computes costs nothing, once the pipeline is full of it.
  const std::vector<PassTimes> quick = {{1, 3, 1}, {1, 3, 0.5, 0.5}, {1, 2, 0, 1}};
  EXPECT_NEAR(simulate(schedule, quick, 120).seconds_per_micro_batch(60), 4, 1e-9);
  // A schedule that flushes waits for it: there and back.
  const Schedule flushing{.order = Order::one_forward, .num_stages = 2, .flush_every = 1};
  EXPECT_NEAR(simulate(flushing, {{1, 2, 0.5}, {1, 2, 0, 0.25}}, 1).seconds(), 6.75, 1e-9);
}

TEST(Clock, DrawsItself) {
  const Schedule schedule{.order = Order::ticks, .num_stages = 2};
  EXPECT_EQ(simulate(schedule, {{1, 3}, {1, 2}}, 6).picture(1, 48),
            "stage 0  F0 F1 F2 .  B0------ F3 B1------ F4 B2------ F5\n"
            "stage 1  .  F0 B0--- F1 B1--- F2 B2--- F3 B3--- F4 B4---\n");
}

TEST(Clock, DrawsItselfFromALaterPoint) {
  const Schedule schedule{.order = Order::ticks, .num_stages = 2};
  const Timeline timeline = simulate(schedule, {{1, 3}, {1, 2}}, 12);
  EXPECT_EQ(timeline.filling_seconds(), 4);
  EXPECT_EQ(timeline.picture(1, 33, timeline.filling_seconds()),
            "stage 0  B0------ F3 B1------ F4 B2------\n"
            "stage 1  F1 B1--- F2 B2--- F3 B3--- F4 .\n");
  EXPECT_EQ(timeline.picture(1, 15, 6),
            "stage 0  -- F3 B1------\n"
            "stage 1  -- F2 B2--- F3\n");
}

TEST(Clock, TakesTheModesCosts) {
  const std::vector<BlockCost> costs(4, {.forward_seconds = 1, .backward_seconds = 2});
  const auto petra = pass_times(costs, {2, 2}, pipeline_mode("petra"));
  EXPECT_EQ(petra[0].forward_seconds, 2);
  EXPECT_EQ(petra[0].backward_seconds, 6);
  EXPECT_EQ(petra[1].backward_seconds, 4);
  EXPECT_EQ(pass_times(costs, {2, 2}, pipeline_mode("gpipe"))[0].backward_seconds, 4);
}

}  // namespace
}  // namespace outstep::engine
