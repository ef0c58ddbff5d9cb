#include "outstep/method/layout.h"

#include <gtest/gtest.h>

#include "outstep/method/testing.h"

namespace outstep::method {
namespace {

using testing::ParametersOnly;

std::vector<std::pair<int64_t, int64_t>> pairs(const std::vector<optim::Range>& ranges) {
  std::vector<std::pair<int64_t, int64_t>> result;
  for (const optim::Range& range : ranges) result.emplace_back(range.begin, range.end);
  return result;
}
using Pairs = std::vector<std::pair<int64_t, int64_t>>;

TEST(Layout, SegmentsLeavePaddingOut) {
  ParametersOnly model({5, 20, 16});
  const nn::FlatParams params(model, 1);
  const auto segments = decay_segments(params);
  ASSERT_EQ(segments.size(), 3u);
  EXPECT_EQ(segments[0].range.end, 5);
  EXPECT_EQ(segments[1].range.begin, 16);
  EXPECT_EQ(segments[1].range.end, 36);
  EXPECT_TRUE(segments[0].decays);
  EXPECT_FALSE(segments[1].decays);
}

TEST(Layout, ParameterRangesCoverTheFlatVector) {
  ParametersOnly model({5, 20, 16, 1});
  const nn::FlatParams params(model, 1);
  EXPECT_EQ(pairs(parameter_ranges(params)), (Pairs{{0, 16}, {16, 48}, {48, 64}, {64, 80}}));
}

TEST(Buckets, AreCutFromTheEndIntoWholeParameters) {
  ParametersOnly model({16, 16, 160, 16, 16});
  const nn::FlatParams params(model, 1);  // offsets 0, 16, 32, 192, 208, end 224
  const auto plan = [&](int64_t bucket, int64_t first) {
    return pairs(plan_buckets(params, {.bucket_bytes = bucket, .first_bucket_bytes = first}));
  };
  EXPECT_EQ(plan(1 << 20, 1 << 20), (Pairs{{0, 224}}));
  EXPECT_EQ(plan(128, 64), (Pairs{{208, 224}, {32, 208}, {0, 32}}));
  EXPECT_EQ(plan(1, 1), (Pairs{{208, 224}, {192, 208}, {32, 192}, {16, 32}, {0, 16}}));
}

TEST(Buckets, AreLaunchedInTheOrderOfThePlanWhateverBecomesReadyFirst) {
  BucketProgress progress({{64, 96}, {32, 64}, {0, 32}});
  EXPECT_EQ(progress.next_complete(), -1);
  progress.mark(0, 64);  // the last two
  EXPECT_EQ(progress.next_complete(), -1);
  progress.mark(80, 96);
  EXPECT_EQ(progress.next_complete(), -1);
  progress.mark(64, 80);
  EXPECT_EQ(progress.next_complete(), 0);
  EXPECT_EQ(progress.next_complete(), 1);
  EXPECT_FALSE(progress.all_launched());
  EXPECT_EQ(progress.next_complete(), 2);
  EXPECT_EQ(progress.next_complete(), -1);
  EXPECT_TRUE(progress.all_launched());
  progress.restart();
  EXPECT_FALSE(progress.all_launched());
  EXPECT_EQ(progress.next_complete(), -1);
}

TEST(Buckets, AnElementAnnouncedTwiceIsABug) {
  BucketProgress progress({{0, 32}});
  progress.mark(0, 32);
  EXPECT_THROW(progress.mark(0, 16), InternalError);
}

}  // namespace
}  // namespace outstep::method
