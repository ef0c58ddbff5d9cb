#include "outstep/sync/zero1.h"

#include <condition_variable>
#include <mutex>
#include <thread>

#include "outstep/comm/hooked_testing.h"
#include "outstep/sync/testing.h"

// That zero1 overlaps where it says so. What it computes is the limit tests' and the contract
// suite's.

namespace outstep::sync {
namespace {

using testing::FormulaEngine;
using testing::FormulaOptions;
using testing::ParametersOnly;

class Flag {
 public:
  void raise() {
    const std::lock_guard lock(mutex_);
    is_up_ = true;
    changed_.notify_all();
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return is_up_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_up_ = false;  // guarded by mutex_
};

// Ends its backward pass only when a gradient is on its way.
class WaitingEngine : public FormulaEngine {
 public:
  WaitingEngine(nn::FlatParams& params, FormulaOptions options, Flag& is_sending)
      : FormulaEngine(params, std::move(options)), is_sending_(is_sending) {}

  void on_range_ready(method::RangeCallback callback) override {
    if (!callback) return FormulaEngine::on_range_ready(nullptr);
    FormulaEngine::on_range_ready([this, callback](int64_t begin, int64_t end) {
      if (begin == 0) {
        EXPECT_TRUE(is_sending_.wait());
      }
      callback(begin, end);
    });
  }

 private:
  Flag& is_sending_;
};

TEST(Zero1, SendsGradientsDuringBackwardAndParametersDuringTheNextForward) {
  Flag is_reducing, is_next_step;
  auto groups = comm::local_groups("replica", 2);
  int num_gathers = 0;  // worker's thread of rank 0
  groups[0] = std::make_unique<comm::testing::Hooked>(
      std::move(groups[0]), [&](const comm::testing::Moment& moment) {
        if (moment.when != comm::testing::Moment::When::before || moment.step != 0) return;
        if (moment.operation == "reduce_scatter") is_reducing.raise();
        if (moment.operation == "all_gather" && ++num_gathers == 2) {
          EXPECT_TRUE(is_next_step.wait());
        }
      });
  std::vector<std::jthread> threads;
  for (size_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      at::set_num_threads(1);
      ParametersOnly model({4099, 257, 4099});
      nn::FlatParams params(model, 1);
      const auto optimizer = testing::make_optimizer("adamw", params);
      int num_begun = 0;
      const auto begin = [&] {
        if (rank == 0 && ++num_begun == 2) is_next_step.raise();
      };
      WaitingEngine engine(
          params,
          {.replica = static_cast<int>(rank), .num_replicas = 2, .before_accumulate = begin},
          is_reducing);
      const auto sync =
          testing::make_sync({.name = "zero1_overlap"}, {params, *groups[rank], *optimizer});
      sync->step(engine, {.step = 0, .lr = 0.01});
      sync->step(engine, {.step = 1, .lr = 0.01});
      sync->pause({});
    });
  }
}

}  // namespace
}  // namespace outstep::sync
