#include "outstep/base/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "outstep/base/torch.h"

namespace outstep {
namespace {

using Pieces = std::vector<std::pair<int64_t, int64_t>>;

Pieces pieces(int64_t size, int64_t grain) {
  std::mutex mutex;
  Pieces result;
  parallel_for(size, grain, [&](int64_t begin, int64_t end) {
    std::lock_guard lock(mutex);
    result.emplace_back(begin, end);
  });
  std::sort(result.begin(), result.end());
  return result;
}

class ParallelFor : public testing::Test {
 protected:
  void SetUp() override { num_threads_before_ = at::get_num_threads(); }
  void TearDown() override { at::set_num_threads(num_threads_before_); }
  int num_threads_before_ = 1;
};

TEST_F(ParallelFor, CoversTheRangeOnceAtMultiplesOfTheGrain) {
  for (int num_threads : {1, 2, 3}) {
    at::set_num_threads(num_threads);
    for (int64_t size : {1, 15, 16, 17, 100, 1000}) {
      const Pieces found = pieces(size, 16);
      EXPECT_LE(found.size(), static_cast<size_t>(num_threads));
      int64_t expected = 0;
      for (auto [begin, end] : found) {
        EXPECT_EQ(begin, expected);
        EXPECT_EQ(begin % 16, 0);
        expected = end;
      }
      EXPECT_EQ(expected, size);
    }
  }
}

TEST_F(ParallelFor, UsesAsManyPiecesAsThreads) {
  at::set_num_threads(2);
  EXPECT_EQ(pieces(1000, 10), (Pieces{{0, 500}, {500, 1000}}));
}

TEST_F(ParallelFor, DoesNothingForAnEmptyRange) { EXPECT_TRUE(pieces(0, 16).empty()); }

TEST_F(ParallelFor, IsSerialInsideItself) {
  at::set_num_threads(2);
  std::atomic<int> num_inner{0};
  parallel_for(2, 1, [&](int64_t, int64_t) {
    parallel_for(100, 1, [&](int64_t begin, int64_t end) {
      if (begin == 0 && end == 100) ++num_inner;
    });
  });
  EXPECT_EQ(num_inner, 2);
}

TEST_F(ParallelFor, RethrowsWhatABodyThrows) {
  at::set_num_threads(2);
  EXPECT_THROW(parallel_for(100, 1, [](int64_t, int64_t) { throw std::out_of_range("here"); }),
               std::out_of_range);
}

}  // namespace
}  // namespace outstep
