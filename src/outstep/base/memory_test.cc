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
  const void* first = at::empty({1 << 20}).data_ptr();
  const int64_t kept = kept_bytes();
  const at::Tensor again = at::empty({1 << 20});
  EXPECT_EQ(again.data_ptr(), first);
  EXPECT_EQ(kept - kept_bytes(), 4 << 20);
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
  reset_peak();
  for (int64_t size = 1 << 16; size < 1 << 24; size += size / 4) at::empty({size}, at::kByte);
  EXPECT_LE(live_bytes() + kept_bytes(), peak_bytes()) << "blocks of many sizes must not pile up";
}

TEST_F(Memory, MakesRoomForABlockOfAnotherSize) {
  constexpr int64_t kMiB = 1 << 20;
  const auto block = [](int64_t mib) { return at::empty({mib * kMiB}, at::kByte); };
  reset_peak();
  {
    std::vector<at::Tensor> small;
    for (int i = 0; i < 12; ++i) small.push_back(block(5));
  }
  EXPECT_EQ(kept_bytes(), 60 * kMiB);
  {
    const at::Tensor large = block(26);
    EXPECT_EQ(kept_bytes(), 30 * kMiB) << "six small blocks go, and no more";
    EXPECT_LE(live_bytes() + kept_bytes(), peak_bytes());
  }
  EXPECT_EQ(kept_bytes(), 56 * kMiB) << "what is free at the same time is kept";
  const at::Tensor larger = block(100);
  EXPECT_EQ(kept_bytes(), 0) << "a new peak is made of live bytes alone";
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
