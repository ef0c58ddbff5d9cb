#include <array>
#include <chrono>
#include <thread>

#include "outstep/comm/faulty.h"
#include "outstep/comm/hooked_testing.h"
#include "outstep/sync/testing.h"

// Ranks that are held up at random in every phase of a step, paused and saved now and then, stopped
// after any step, or hit by a fault at any transfer. Of ACCO's specification: 10.

namespace outstep::sync {
namespace {

using testing::expect_same_bits;
using ::testing::HasSubstr;
using testing::MemoryCheckpoint;
using ::testing::Not;
using testing::Outcome;
using testing::Replica;

constexpr int kNumSteps = 6;
const std::array kMethods = {"acco", "dpu", "wp", "zero1_overlap"};

// Whatever makes a rank slow: half of the times nothing, else up to two milliseconds.
class Delays {
 public:
  Delays(uint64_t seed, size_t thread)
      : rng_({.seed = seed, .purpose = purpose("test.delays"), .stream = thread}) {}
  void operator()() {
    if (rng_.below(2) == 0) return;
    std::this_thread::sleep_for(std::chrono::microseconds(rng_.below(2000)));
  }

 private:
  CounterRng rng_;
};

enum class Ending { regular, stop, leave, failed_transfer, failed_engine };

// All of a run that chance decides, the same on every rank.
struct Scenario {
  uint64_t seed = 0;
  std::string sync = {};
  int num_ranks = 2;
  bool has_fixed_counts = true;
  Ending ending = Ending::regular;
  bool has_delays = true;

  uint64_t draw(const char* what, uint64_t bound) const {
    return CounterRng({.seed = seed, .purpose = purpose(what)}).below(bound);
  }
  int victim() const { return static_cast<int>(draw("victim", static_cast<uint64_t>(num_ranks))); }
  // After which stop and leave take place.
  int last_step() const { return static_cast<int>(draw("last step", kNumSteps - 1)); }
  bool pauses_after(int step) const { return draw("pauses", 1u << kNumSteps) >> step & 1; }

  Replica::Options options() const {
    Replica::Options options{.sync = {.name = sync},
                             .sizes = {257, 31, 4099, 16, 3},
                             .num_buffers = 1,
                             .accumulation = 3,
                             .clip_norm = 0.5};
    options.sync.overlapped = {.has_fixed_counts = has_fixed_counts,
                               .k_max = has_fixed_counts ? 0 : 4};
    if (draw("rounds what is live", 3) == 0) options.sync.overlapped.live = comm::Wire::bf16;
    options.sync.acco.estimate_format =
        std::array{method::DifferenceFormat::none, method::DifferenceFormat::bf16,
                   method::DifferenceFormat::int8}[draw("format", 3)];
    options.sync.acco.synchronous_steps = static_cast<int64_t>(draw("synchronous", 3));
    if (ending == Ending::failed_engine) {
      options.formula.throws_at = static_cast<int64_t>(draw("throws at", 12));
    }
    return options;
  }
};

void PrintTo(const Scenario& scenario, std::ostream* out) {
  *out << scenario.sync << " on " << scenario.num_ranks
       << (scenario.has_fixed_counts ? " fixed" : " dynamic") << ", seed " << scenario.seed;
}

// What a rank leaves.
struct RankEnd {
  at::Tensor values;
  std::vector<method::StepReport> reports;
  std::string error;  // of communication; "" if it had none
  bool engine_failed = false;
};

void play_steps(const Scenario& scenario, comm::Group& group, Replica& replica, Delays& delays,
                RankEnd& end) {
  for (int step = 0; step < kNumSteps; ++step) {
    replica.step();
    delays();
    if (scenario.pauses_after(step)) {
      replica.pause();
      delays();
      MemoryCheckpoint saved;  // each rank's own: nobody loads it
      saved.save(group.rank(), replica.sync());
      delays();
      replica.sync().resume();
    }
    const bool is_over = step == scenario.last_step();
    if (is_over && scenario.ending == Ending::stop) return;
    if (is_over && scenario.ending == Ending::leave && group.rank() == scenario.victim()) return;
  }
  replica.pause();
  end.values = replica.values().clone();
}

void play_rank(const Scenario& scenario, comm::Group& group, Outcome& outcome, RankEnd& end) {
  at::set_num_threads(1);
  Delays delays(scenario.seed, 2 * static_cast<size_t>(group.rank()));
  Replica::Options options = scenario.options();
  if (scenario.has_delays) options.formula.before_accumulate = [&] { delays(); };
  try {
    Replica replica(group, options);
    play_steps(scenario, group, replica, delays, end);
    end.reports = replica.reports();
    // The formula's engine has drawn as much on every rank only where counts are fixed.
    if (end.values.defined() && scenario.has_fixed_counts) {
      replica.save(group.rank(), *outcome.checkpoint);
    }
  } catch (const CommError& error) {
    end.error = error.what();
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("the engine failed"));
    end.engine_failed = true;
  }
}

// The ranks' groups, with what the scenario has in store for them.
std::vector<std::unique_ptr<comm::Group>> groups_of(const Scenario& scenario) {
  // Far beyond all delays: nobody ever waits as long.
  auto groups = comm::local_groups("replica", scenario.num_ranks, std::chrono::seconds(20));
  if (scenario.ending == Ending::failed_transfer) {
    auto& group = groups[static_cast<size_t>(scenario.victim())];
    const auto at_transfer = static_cast<int64_t>(scenario.draw("transfer", 30));
    group = std::make_unique<comm::Faulty>(
        std::move(group), comm::Fault{.kind = comm::Fault::Kind::fail, .at_transfer = at_transfer});
  }
  for (size_t rank = 0; rank < groups.size() && scenario.has_delays; ++rank) {
    const auto delays = std::make_shared<Delays>(scenario.seed, 2 * rank + 1);
    groups[rank] = std::make_unique<comm::testing::Hooked>(
        std::move(groups[rank]), [delays](const comm::testing::Moment&) { (*delays)(); });
  }
  return groups;
}

struct Played {
  Outcome outcome;
  std::vector<RankEnd> ranks;
};

Played play(const Scenario& scenario) {
  at::set_num_threads(1);
  Played played;
  played.ranks.resize(static_cast<size_t>(scenario.num_ranks));
  auto groups = groups_of(scenario);
  {
    std::vector<std::jthread> threads;
    for (size_t rank = 0; rank < groups.size(); ++rank) {
      threads.emplace_back([&, rank, group = std::move(groups[rank])] {
        play_rank(scenario, *group, played.outcome, played.ranks[rank]);
      });
    }
  }
  played.outcome.values = played.ranks[0].values;
  for (const auto& report : played.ranks[0].reports)
    played.outcome.norms.push_back(report.grad_norm);
  return played;
}

// Scenarios of every method and number of ranks; chance does the rest.
void for_each_scenario(Scenario scenario, const std::function<void(const Scenario&)>& test) {
  for (const char* sync : kMethods) {
    for (scenario.num_ranks = 2; scenario.num_ranks <= 4; ++scenario.num_ranks) {
      scenario.sync = sync;
      ++scenario.seed;
      SCOPED_TRACE(::testing::PrintToString(scenario));
      test(scenario);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(Acco10, DelaysAndPausesChangeNoBit) {
  for_each_scenario({.seed = 100}, [](const Scenario& scenario) {
    Scenario undelayed = scenario;
    undelayed.has_delays = false;
    const Played delayed = play(scenario);
    const Played plain = play(undelayed);
    for (const RankEnd& end : delayed.ranks) {
      ASSERT_EQ(end.error, "");
      EXPECT_TRUE(at::equal(end.values, delayed.outcome.values));
    }
    expect_same_bits(delayed.outcome, plain.outcome, "adamw");
  });
}

// Whoever computes how much, ranks agree on what they committed, and on how much that was.
TEST(Acco10, RanksOfDynamicCountsAgreeWhateverTheDelays) {
  for_each_scenario({.seed = 200, .has_fixed_counts = false}, [](const Scenario& scenario) {
    const Played delayed = play(scenario);
    for (const RankEnd& end : delayed.ranks) {
      ASSERT_EQ(end.error, "");
      EXPECT_TRUE(at::equal(end.values, delayed.outcome.values));
      ASSERT_EQ(end.reports.size(), kNumSteps);
    }
    EXPECT_TRUE(delayed.outcome.values.isfinite().all().item<bool>());
    for (size_t step = 0; step < kNumSteps; ++step) {
      int64_t total = 0;
      for (const RankEnd& end : delayed.ranks) total += end.reports[step].local.micro_batches;
      for (const RankEnd& end : delayed.ranks) {
        EXPECT_EQ(end.reports[step].micro_batches_total, total);
      }
    }
  });
}

TEST(Acco10, AllMayStopAfterAnyStep) {
  for (const bool is_fixed : {true, false}) {
    for_each_scenario({.seed = 300, .has_fixed_counts = is_fixed, .ending = Ending::stop},
                      [](const Scenario& scenario) {
                        const Played stopped = play(scenario);
                        for (const RankEnd& end : stopped.ranks) EXPECT_EQ(end.error, "");
                      });
  }
}

// At once, not at the deadline.
void expect_told_of(const RankEnd& end) {
  EXPECT_NE(end.error, "");
  EXPECT_THAT(end.error, Not(HasSubstr("did not answer")));
}

TEST(Acco10, OthersHearOfARankThatLeft) {
  for (const bool is_fixed : {true, false}) {
    for_each_scenario({.seed = 400, .has_fixed_counts = is_fixed, .ending = Ending::leave},
                      [](const Scenario& scenario) {
                        const Played left = play(scenario);
                        for (int rank = 0; rank < scenario.num_ranks; ++rank) {
                          if (rank == scenario.victim()) continue;
                          expect_told_of(left.ranks[static_cast<size_t>(rank)]);
                        }
                      });
  }
}

TEST(Acco10, AllHearOfATransferThatFailed) {
  for (const bool is_fixed : {true, false}) {
    for_each_scenario(
        {.seed = 500, .has_fixed_counts = is_fixed, .ending = Ending::failed_transfer},
        [](const Scenario& scenario) {
          const Played failed = play(scenario);
          for (const RankEnd& end : failed.ranks) expect_told_of(end);
        });
  }
}

TEST(Acco10, AllHearOfAnEngineThatFailed) {
  for (const bool is_fixed : {true, false}) {
    for_each_scenario({.seed = 600, .has_fixed_counts = is_fixed, .ending = Ending::failed_engine},
                      [](const Scenario& scenario) {
                        const Played failed = play(scenario);
                        int num_failed = 0;
                        for (const RankEnd& end : failed.ranks) {
                          num_failed += end.engine_failed;
                          if (!end.engine_failed) expect_told_of(end);
                        }
                        EXPECT_EQ(num_failed, 1);
                      });
  }
}

}  // namespace
}  // namespace outstep::sync
