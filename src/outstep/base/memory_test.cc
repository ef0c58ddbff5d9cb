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

TEST_F(Memory, KeepsNoMoreThanWasOnceLive) {
  release_kept();
  reset_peak();
  for (int64_t size = 1 << 16; size < 1 << 24; size += size / 4) at::empty({size}, at::kByte);
  EXPECT_LE(release_kept(), peak_bytes()) << "blocks of many sizes must not pile up";
}

TEST_F(Memory, CountsSmallAndEmptyTensors) {
  const int64_t before = live_bytes();
  {
    at::Tensor small = at::empty({100}, at::kByte);
    EXPECT_GE(live_bytes() - before, 100);
    const int64_t with_small = live_bytes();
    at::Tensor empty = at::empty({0});
    EXPECT_EQ(live_bytes(), with_small);
  }
  EXPECT_EQ(live_bytes(), before);
}

TEST_F(Memory, ATensorThatGrowsIsCountedRight) {  // realloc of a storage: new block, copy, free
  const int64_t before = live_bytes();
  {
    at::Tensor tensor = at::ones({70'000}, at::kByte);
    tensor.resize_({200'000});
    EXPECT_EQ(live_bytes() - before, 200'000);
    EXPECT_EQ(tensor[69'999].item<int>(), 1);
  }
  EXPECT_EQ(live_bytes(), before);
}

TEST_F(Memory, InstallingAgainDoesNothing) {
  at::Tensor tensor = at::empty({1 << 20});
  const int64_t before = live_bytes();
  install();
  EXPECT_TRUE(is_installed());
  tensor.reset();
  EXPECT_EQ(before - live_bytes(), 4 << 20);
}

// Freed by exit(), after main: the process must still end well.
[[maybe_unused]] at::Tensor& lives_until_exit() {
  static at::Tensor tensor;
  return tensor;
}
TEST_F(Memory, OutlivesTensorsOfStaticLifetime) {
  lives_until_exit() = at::ones({1 << 20});
  EXPECT_EQ(lives_until_exit()[5].item<float>(), 1);
}

TEST_F(Memory, ReadsResidentMemory) {
  EXPECT_GT(rss_bytes(), 1 << 20);
  EXPECT_GE(peak_rss_bytes(), rss_bytes() / 2);
}

}  // namespace
}  // namespace outstep::memory
