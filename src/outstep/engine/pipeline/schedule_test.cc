#include "outstep/engine/pipeline/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "outstep/base/errors.h"
#include "outstep/engine/pipeline/mode.h"

namespace outstep::engine {
namespace {

// "F0 F1 B0 …"
std::string row(Program program, int num_actions) {
  std::string text;
  for (int i = 0; i < num_actions; ++i) {
    const Action action = program.next();
    text +=
        fmt::format("{}{} ", action.kind == Action::Kind::forward ? 'F' : 'B', action.micro_batch);
  }
  text.pop_back();
  return text;
}

TEST(Schedule, GPipeMakesAllForwardPassesFirst) {
  const Schedule schedule{.order = Order::all_forward, .num_stages = 3, .flush_every = 3};
  for (int stage = 0; stage < 3; ++stage) {
    EXPECT_EQ(row(schedule.program(stage), 8), "F0 F1 F2 B0 B1 B2 F3 F4");
    EXPECT_EQ(schedule.delay(stage), 0);
  }
}

TEST(Schedule, OneForwardOneBackwardHoldsAsManyAsStagesFollow) {
  const Schedule schedule{.order = Order::one_forward, .num_stages = 3, .flush_every = 4};
  EXPECT_EQ(row(schedule.program(0), 10), "F0 F1 F2 B0 F3 B1 B2 B3 F4 F5");
  EXPECT_EQ(row(schedule.program(1), 9), "F0 F1 B0 F2 B1 F3 B2 B3 F4");
  EXPECT_EQ(row(schedule.program(2), 9), "F0 B0 F1 B1 F2 B2 F3 B3 F4");
}

TEST(Schedule, FewerMicroBatchesThanStages) {
  const Schedule schedule{.order = Order::one_forward, .num_stages = 5, .flush_every = 2};
  EXPECT_EQ(row(schedule.program(0), 6), "F0 F1 B0 B1 F2 F3");
  EXPECT_EQ(row(schedule.program(4), 6), "F0 B0 F1 B1 F2 B2");
}

TEST(Schedule, TicksNeverFlush) {
  const Schedule schedule{.order = Order::ticks, .num_stages = 3};
  EXPECT_EQ(row(schedule.program(0), 11), "F0 F1 F2 F3 F4 B0 F5 B1 F6 B2 F7");
  EXPECT_EQ(row(schedule.program(1), 8), "F0 F1 F2 B0 F3 B1 F4 B2");
  EXPECT_EQ(row(schedule.program(2), 6), "F0 B0 F1 B1 F2 B2");
  EXPECT_EQ(schedule.delay(0), 4);
  EXPECT_EQ(schedule.delay(2), 0);
}

TEST(Schedule, TicksThatFlushBeginAnew) {
  const Schedule schedule{.order = Order::ticks, .num_stages = 2, .flush_every = 4};
  EXPECT_EQ(row(schedule.program(0), 10), "F0 F1 F2 B0 F3 B1 B2 B3 F4 F5");
  EXPECT_EQ(row(schedule.program(1), 10), "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4");
}

TEST(Schedule, CreditsBoundTheDelayOfStagesThatRunFreely) {
  for (const int64_t credits : {1, 3, 9}) {
    const Schedule schedule{.order = Order::ticks, .num_stages = 3, .credits = credits};
    EXPECT_EQ(schedule.delay(0), credits - 1);
    EXPECT_EQ(schedule.delay(1), credits - 1);
    EXPECT_EQ(schedule.delay(2), 0);
  }
}

// Updates that the row of actions makes between each micro-batch's two passes, over whole flushes
// or steps far from the start.
std::pair<double, int64_t> counted_staleness(const Schedule& schedule, int stage, int64_t k) {
  Program program = schedule.program(stage);
  const int64_t from = 20 * k, end = schedule.flush_every == Program::kNever
                                         ? from + k
                                         : from * schedule.flush_every;
  std::map<int64_t, int64_t> version_of;  // of the forward pass, by micro-batch
  int64_t sum = 0, most = 0, num = 0;
  while (program.num_backward() < end) {
    const Action action = program.next();
    if (action.kind == Action::Kind::forward) {
      version_of[action.micro_batch] = program.num_backward() / k;
    } else if (action.micro_batch >= (schedule.flush_every == Program::kNever ? from : 0)) {
      const int64_t staleness = action.micro_batch / k - version_of[action.micro_batch];
      sum += staleness;
      most = std::max(most, staleness);
      ++num;
    }
  }
  return {double(sum) / double(num), most};
}

TEST(Schedule, StalenessIsThatOfItsRow) {
  for (const Order order : {Order::all_forward, Order::one_forward, Order::ticks}) {
    for (const int J : {1, 2, 5}) {
      for (const int64_t k : {1, 2, 3, 8}) {
        for (const int64_t steps : {0, 1, 2, 7}) {  // between flushes; 0: none
          if (order != Order::ticks && steps != 1) continue;
          const Schedule schedule{.order = order,
                                  .num_stages = J,
                                  .flush_every = steps > 0 ? steps * k : Program::kNever};
          for (int stage = 0; stage < J; ++stage) {
            const auto [mean, most] = counted_staleness(schedule, stage, k);
            EXPECT_NEAR(schedule.staleness(stage, k), mean, 1e-12)
                << J << " stages, k " << k << ", flush " << steps << ", stage " << stage;
            EXPECT_EQ(schedule.most_staleness(stage, k), most)
                << J << " stages, k " << k << ", flush " << steps << ", stage " << stage;
            if (steps == 1) {
              EXPECT_EQ(most, 0);
            }
          }
        }
      }
    }
  }
}

TEST(Program, GoesOnWhereItStood) {
  Program program = Schedule{.order = Order::ticks, .num_stages = 3}.program(1);
  for (int i = 0; i < 6; ++i) program.next();
  Program again = Schedule{.order = Order::ticks, .num_stages = 3}.program(1);
  again.seek(program.num_forward(), program.num_backward());
  EXPECT_EQ(row(again, 9), row(program, 9));
  EXPECT_THROW(again.seek(9, 2), InternalError);
  EXPECT_THROW(again.seek(1, 2), InternalError);
}

TEST(Modes, AreThoseOfTheSpecificationsTable) {
  EXPECT_THAT(pipeline_mode_names(),
              ::testing::ElementsAre("gpipe", "1f1b", "reversible", "delayed", "pipedream", "dsp",
                                     "reversible_stash", "approx_input", "petra"));
  for (const Mode& mode : pipeline_modes()) {
    const bool stashes = mode.name == "delayed" || mode.name == "pipedream" ||
                         mode.name == "reversible_stash" || mode.name == "approx_input";
    EXPECT_EQ(mode.buffering.stashes(), stashes) << mode.name;
    EXPECT_EQ(mode.flushes(),
              mode.name == "gpipe" || mode.name == "1f1b" || mode.name == "reversible");
  }
}

}  // namespace
}  // namespace outstep::engine
