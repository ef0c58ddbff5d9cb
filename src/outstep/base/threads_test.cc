#include "outstep/base/threads.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <latch>
#include <memory>
#include <stdexcept>
#include <vector>

#include "outstep/base/errors.h"

namespace outstep {
namespace {

std::string name_of_this_thread() {
  char name[16] = "";
  pthread_getname_np(pthread_self(), name, sizeof name);
  return name;
}

TEST(Threads, HaveNames) {
  std::string given, cut;
  std::thread([&] {
    name_this_thread("data.prefetch");
    given = name_of_this_thread();
    name_this_thread("a name that is far too long");
    cut = name_of_this_thread();
  }).join();
  EXPECT_EQ(given, "data.prefetch");
  EXPECT_EQ(cut, "a name that is ");
}

TEST(SerialWorker, RunsOnItsNamedThread) {
  SerialWorker worker("comm");
  std::string name;
  worker.wait(worker.post([&] { name = name_of_this_thread(); }));
  EXPECT_EQ(name, "comm");
  EXPECT_THROW(worker.wait(99), InternalError) << "nobody would ever end it";
}

TEST(SerialWorker, ReleasesWhatAJobHeldBeforeTheWaitReturns) {
  SerialWorker worker("test");
  auto held = std::make_shared<int>(1);
  worker.wait(worker.post([held] {}));
  EXPECT_EQ(held.use_count(), 1);
}

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
