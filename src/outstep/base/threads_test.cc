#include "outstep/base/threads.h"

#include <gtest/gtest.h>

#include <latch>
#include <stdexcept>
#include <vector>

namespace outstep {
namespace {

TEST(SerialWorker, RunsJobsInOrder) {
  SerialWorker worker("test");
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) worker.post([&order, i] { order.push_back(i); });
  worker.wait_all();
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[i], i);
}

TEST(SerialWorker, WaitsForOneJob) {
  SerialWorker worker("test");
  std::latch may_go(1);
  const auto first = worker.post([] {});
  const auto second = worker.post([&] { may_go.wait(); });
  worker.wait(first);
  EXPECT_FALSE(worker.is_done(second));
  may_go.count_down();
  worker.wait(second);
  EXPECT_TRUE(worker.is_done(second));
}

TEST(SerialWorker, AnErrorReachesEveryWaitAndStopsLaterJobs) {
  SerialWorker worker("test");
  bool ran_after_error = false;
  std::latch may_go(1);
  worker.post([&] { may_go.wait(); });
  const auto failing = worker.post([] { throw std::runtime_error("broken link"); });
  const auto later = worker.post([&] { ran_after_error = true; });
  may_go.count_down();
  EXPECT_THROW(worker.wait(failing), std::runtime_error);
  EXPECT_THROW(worker.wait(later), std::runtime_error);
  EXPECT_THROW(worker.wait_all(), std::runtime_error);
  EXPECT_THROW(worker.is_done(later), std::runtime_error);
  EXPECT_THROW(worker.rethrow_error(), std::runtime_error);
  EXPECT_FALSE(ran_after_error);
}

TEST(SerialWorker, EndsWithJobsLeft) {
  int num_run = 0;
  std::latch started(1), may_go(1);
  std::jthread releases;
  {
    SerialWorker worker("test");
    worker.post([&] {
      started.count_down();
      may_go.wait();
      ++num_run;
    });
    for (int i = 0; i < 10; ++i) worker.post([&] { ++num_run; });
    started.wait();
    releases = std::jthread([&] { may_go.count_down(); });
  }
  EXPECT_GE(num_run, 1) << "the running job is let finish";
}

}  // namespace
}  // namespace outstep
