#include "outstep/base/memory.h"

#include <gtest/gtest.h>

#include <thread>

#include "outstep/base/torch.h"

namespace outstep::memory {
namespace {

class Memory : public testing::Test {
 protected:
  static void SetUpTestSuite() { install(); }
};

TEST_F(Memory, CountsLargeTensorsToTheByte) {
  const int64_t before = live_bytes();
  {
    at::Tensor tensor = at::empty({1'000'003}, at::kByte);
    EXPECT_EQ(live_bytes() - before, 1'000'003);
  }
  EXPECT_EQ(live_bytes(), before);
}

TEST_F(Memory, PeakIsTheHighestSinceTheReset) {
  reset_peak();
  const int64_t before = live_bytes();
  {
    at::Tensor tensor = at::empty({1 << 20});
  }
  {
    at::Tensor tensor = at::empty({1 << 10, 1 << 9});
  }
  EXPECT_EQ(peak_bytes() - before, 4 << 20);
  reset_peak();
  EXPECT_EQ(peak_bytes(), live_bytes());
}

TEST_F(Memory, ReusesAFreedBlock) {
  release_kept();
  const void* first = at::empty({1 << 20}).data_ptr();
  const void* second = at::empty({1 << 20}).data_ptr();
  EXPECT_EQ(first, second);
  EXPECT_GE(release_kept(), 4 << 20);
  EXPECT_EQ(release_kept(), 0);
}

TEST_F(Memory, CountsWhatOtherThreadsFree) {
  const int64_t before = live_bytes();
  at::Tensor small = at::empty({10});
  at::Tensor large = at::empty({1 << 20});
  std::thread([small = std::move(small), large = std::move(large)]() mutable {
    small.reset();
    large.reset();
  }).join();
  EXPECT_EQ(live_bytes(), before);
}

TEST_F(Memory, ThreadsMayAllocateAtOnce) {
  const int64_t before = live_bytes();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 200; ++i) at::empty({(1 << 15) + 1000 * t + i});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(live_bytes(), before);
}

TEST_F(Memory, ReadsResidentMemory) {
  EXPECT_GT(rss_bytes(), 1 << 20);
  EXPECT_GE(peak_rss_bytes(), rss_bytes() / 2);
}

}  // namespace
}  // namespace outstep::memory
