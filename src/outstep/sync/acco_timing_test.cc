#include <algorithm>
#include <numeric>
#include <thread>

#include "outstep/comm/wrapped_group.h"
#include "outstep/sync/testing.h"
#include "outstep/sync/virtual_clock_testing.h"

// How long ranks of different speed, or on a slow link, take for their gradients: the real methods
// under a virtual clock, so that every number is exact. Of the method's specification: 8 overlap,
// 9 stragglers.

namespace outstep::sync {
namespace {

using testing::Replica;
using testing::VirtualClock;

// Transfers of parameters take as long as they are told to, everything else no time.
class SlowLink : public comm::WrappedGroup {
 public:
  SlowLink(std::unique_ptr<comm::Group> inner, std::function<void()> wait)
      : WrappedGroup(std::move(inner)), wait_(std::move(wait)) {}

  void all_gather(const at::Tensor& input, at::Tensor output, const comm::Shards& shards,
                  comm::CallOptions options, comm::Wire wire) override {
    wait_();
    Group::all_gather(input, output, shards, options, wire);
  }

 private:
  const std::function<void()> wait_;
};

struct Setting {
  std::string sync = "acco";
  OverlappedOptions overlapped = {};   // counts are dynamic unless told otherwise
  int64_t accumulation = 1;            // of lockstep
  std::vector<double> units = {1, 1};  // of a micro-batch, by rank
  double units_of_round = 0;           // that communication takes
};

// Over kCommits commits, after some to get going.
struct Measured {
  double gradients_per_unit = 0;          // of all ranks
  std::vector<method::StepReport> slow;   // rank 0's reports
  std::vector<double> longest_wait = {};  // by rank: between two of its micro-batches
};

constexpr int kWarmUp = 2;
constexpr int kCommits = 20;

// One rank, on its thread. Its computing is sleep, and no other time passes for it.
class TimedRank {
 public:
  TimedRank(comm::Group& group, const Setting& setting, VirtualClock& clock)
      : clock_(clock),
        units_(setting.units[static_cast<size_t>(group.rank())]),
        number_(group.rank()),
        replica_(group, {.sync = {.name = setting.sync, .overlapped = setting.overlapped},
                         .optimizer = "sgd",
                         .accumulation = setting.accumulation,
                         .formula = {.before_accumulate = [this] { compute(); }}}) {}

  Measured run() {
    replica_.steps(kWarmUp);
    const double begin = clock_.now();
    longest_wait_ = 0;
    replica_.steps(kCommits);
    Measured measured{.slow = {replica_.reports().begin() + kWarmUp, replica_.reports().end()},
                      .longest_wait = {longest_wait_}};
    for (const auto& report : measured.slow) {
      measured.gradients_per_unit += static_cast<double>(report.micro_batches_total);
    }
    measured.gradients_per_unit /= clock_.now() - begin;
    return measured;
  }

 private:
  void compute() {
    longest_wait_ = std::max(longest_wait_, clock_.now() - last_end_);
    clock_.sleep(units_, number_);
    last_end_ = clock_.now();
  }

  VirtualClock& clock_;
  const double units_;
  const int number_;
  double last_end_ = 0;
  double longest_wait_ = 0;
  Replica replica_;  // last: computes with all of the above
};

Measured measure(const Setting& setting) {
  const int num_ranks = static_cast<int>(setting.units.size());
  auto groups = comm::local_groups("replica", num_ranks);
  VirtualClock clock;
  std::vector<Measured> measured(groups.size());
  {
    std::vector<std::jthread> threads;
    for (size_t rank = 0; rank < groups.size(); ++rank) {
      if (setting.units_of_round > 0) {
        groups[rank] = std::make_unique<SlowLink>(std::move(groups[rank]), [&, rank] {
          clock.sleep(setting.units_of_round, num_ranks + static_cast<int>(rank));
        });
      }
      threads.emplace_back([&, rank] {
        at::set_num_threads(1);
        try {
          measured[rank] = TimedRank(*groups[rank], setting, clock).run();
        } catch (const std::exception& error) {
          ADD_FAILURE() << rank << ": " << error.what();
          groups[rank]->abort();
        }
      });
    }
  }
  for (size_t rank = 1; rank < groups.size(); ++rank) {
    measured[0].longest_wait.push_back(measured[rank].longest_wait[0]);
  }
  return measured[0];
}

// Rank 0 takes four times as long for a micro-batch as the others.
std::vector<double> with_straggler(int num_ranks) {
  std::vector<double> units(static_cast<size_t>(num_ranks), 1);
  units[0] = 4;
  return units;
}

// While the straggler computes one, each of the others computes four; in lockstep it computes one
// and waits.
TEST(Acco9, AStragglerDoesNotHoldUpTheOthersGradients) {
  struct World {
    int num_ranks;
    double expected;  // times lockstep's gradients
  };
  for (const World& world : {World{4, 3.25}, World{2, 2.5}}) {
    const auto units = with_straggler(world.num_ranks);
    const Measured lockstep = measure({.sync = "zero1", .units = units});
    EXPECT_DOUBLE_EQ(lockstep.gradients_per_unit, world.num_ranks / 4.0);
    for (size_t rank = 1; rank < units.size(); ++rank) {
      EXPECT_EQ(lockstep.longest_wait[rank], 3) << rank;
    }
    for (const char* sync : {"acco", "dpu", "wp"}) {
      SCOPED_TRACE(sync + std::to_string(world.num_ranks));
      const Measured overlapped = measure({.sync = sync, .units = units});
      const double gain = overlapped.gradients_per_unit / lockstep.gradients_per_unit;
      EXPECT_NEAR(gain, world.expected, 0.05 * world.expected);
      for (const auto& report : overlapped.slow) {
        for (const int64_t count : report.round_micro_batches) EXPECT_EQ(count, 1);
      }
      for (const double wait : overlapped.longest_wait) EXPECT_EQ(wait, 0);
    }
  }
}

TEST(Acco9, TheStragglersCountsStayAtTheLowerBound) {
  const Measured measured = measure({.overlapped = {.k_min = 2}, .units = with_straggler(4)});
  for (const auto& report : measured.slow) {
    EXPECT_EQ(report.round_micro_batches, (std::vector<int64_t>{2, 2}));
  }
}

// With an upper bound the others wait for the straggler, but for its round.
TEST(Acco9, AnUpperBoundMakesTheOthersWait) {
  const Measured measured = measure({.overlapped = {.k_max = 2}, .units = with_straggler(2)});
  EXPECT_DOUBLE_EQ(measured.gradients_per_unit, (1 + 2) / 4.0);
  EXPECT_EQ(measured.longest_wait, (std::vector<double>{0, 2}));
}

double units_per_gradient(const Setting& setting) {
  const double num_ranks = static_cast<double>(setting.units.size());
  return num_ranks / measure(setting).gradients_per_unit;
}

// Communication of `units` beside rounds of k_min = 2 micro-batches of one unit.
TEST(Acco8, CommunicationIsFreeUntilItIsLongerThanComputing) {
  for (const double units : {0.0, 0.5, 1.5}) {
    const Setting setting{.overlapped = {.k_min = 2}, .units_of_round = units};
    EXPECT_DOUBLE_EQ(units_per_gradient(setting), 1) << units;
    for (const auto& report : measure(setting).slow) {
      EXPECT_EQ(report.round_micro_batches, (std::vector<int64_t>{2, 2})) << units;
    }
    // The same number of gradients an update, one after the other.
    const Setting lockstep{.sync = "zero1", .accumulation = 4, .units_of_round = units};
    EXPECT_DOUBLE_EQ(units_per_gradient(lockstep), 1 + units / 4) << units;
  }
}

TEST(Acco8, CountsGrowWhereCommunicationIsLongerThanComputing) {
  const Setting setting{.overlapped = {.k_min = 2}, .units_of_round = 5.5};
  EXPECT_DOUBLE_EQ(units_per_gradient(setting), 1);
  for (const auto& report : measure(setting).slow) {
    EXPECT_EQ(report.round_micro_batches, (std::vector<int64_t>{6, 6}));
  }
  const Setting bounded{.overlapped = {.k_min = 2, .k_max = 3}, .units_of_round = 5.5};
  EXPECT_DOUBLE_EQ(units_per_gradient(bounded), 5.5 / 3);
  const Setting fixed{
      .overlapped = {.has_fixed_counts = true}, .accumulation = 4, .units_of_round = 5.5};
  EXPECT_DOUBLE_EQ(units_per_gradient(fixed), 2 * 5.5 / 4);
}

}  // namespace
}  // namespace outstep::sync
