#include "outstep/optim/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "outstep/base/rng.h"

namespace outstep::optim {
namespace {

at::Tensor random(int64_t size, double deviation = 1) {
  at::Tensor values = at::empty({size}, at::kFloat);
  fill_normal(values, 0, deviation, {.seed = 3, .purpose = purpose("norm.test")});
  return values;
}

TEST(ExactSum, AddsNumbersOfAnySizeExactlyInAnyOrder) {
  const std::vector<double> values{1e-60, 3e40, 0.1, 0.7, 1e-20, 5e-324, 0, 123456789.0, 0x1p-298};
  ExactSum forwards, backwards, in_two;
  for (double value : values) forwards.add(value);
  for (size_t i = values.size(); i-- > 0;) backwards.add(values[i]);
  ExactSum half;
  for (size_t i = 0; i < 4; ++i) half.add(values[i]);
  for (size_t i = 4; i < values.size(); ++i) in_two.add(values[i]);
  in_two.add(half);
  EXPECT_EQ(forwards.to_double(), backwards.to_double());
  EXPECT_EQ(forwards.to_double(), in_two.to_double());
  EXPECT_DOUBLE_EQ(forwards.to_double(), 3e40);
}

TEST(ExactSum, KeepsWhatDoubleWouldLose) {
  ExactSum sum;
  sum.add(1e30);
  for (int i = 0; i < 1000; ++i) sum.add(1e-3);
  ExactSum large;
  large.add(1e30);
  // The difference of the two, limb by limb, is the thousand small ones.
  for (int i = 0; i < ExactSum::kNumLimbs; ++i) sum.limbs[i] -= large.limbs[i];
  EXPECT_NEAR(sum.to_double(), 1, 1e-15);
}

TEST(ExactSum, CarriesIntoHigherLimbs) {
  ExactSum sum;
  for (int i = 0; i < 100'000; ++i) sum.add(0x1.fffffffffffffp-1);
  EXPECT_DOUBLE_EQ(sum.to_double(), 100'000 * 0x1.fffffffffffffp-1);
}

TEST(ExactSum, RemembersWhatIsNotFinite) {
  for (double bad :
       {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN(), 1e200}) {
    ExactSum sum, other;
    sum.add(1);
    other.add(bad);
    sum.add(other);
    EXPECT_EQ(sum.num_nonfinite, 1);
    EXPECT_TRUE(std::isinf(sum.to_double()));
  }
}

TEST(ExactSum, TravelsAsWordsThatMayBeAdded) {
  ExactSum a, b, both;
  a.add(0.3);
  b.add(1e20);
  b.add(std::numeric_limits<double>::quiet_NaN());
  both.add(a);
  both.add(b);
  const ExactSum summed = ExactSum::from_words(a.to_words() + b.to_words());
  EXPECT_EQ(summed.num_nonfinite, 1);
  EXPECT_TRUE(at::equal(summed.to_words(), both.to_words()));
}

TEST(SquaredNorm, IsTheSumOfSquares) {
  EXPECT_EQ(squared_norm(at::tensor({3.0f, 4.0f})).to_double(), 25);
  EXPECT_EQ(squared_norm(at::empty({0}, at::kFloat)).to_double(), 0);
  for (int64_t size : {1, 255, 256, 257, 100'003}) {
    const at::Tensor values = random(size);
    const double expected = values.to(at::kDouble).square().sum().item<double>();
    EXPECT_NEAR(squared_norm(values).to_double() / expected, 1, 1e-13) << size;
  }
}

TEST(SquaredNorm, CoversAllOfFloat32) {
  const float largest = std::numeric_limits<float>::max();
  const float smallest = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(squared_norm(at::tensor({smallest})).to_double(), 0x1p-298);
  EXPECT_DOUBLE_EQ(squared_norm(at::full({1000}, largest)).to_double(),
                   1000 * static_cast<double>(largest) * static_cast<double>(largest));
}

TEST(SquaredNorm, HasTheSameBitsForAnyShards) {
  const at::Tensor values = random(10'007, 1e-3);
  const double whole = squared_norm(values).to_double();
  for (int num_shards : {2, 3, 4, 8, 64}) {
    const int64_t length = (values.numel() / num_shards / kNormGrain + 1) * kNormGrain;
    ExactSum sum;
    for (int64_t begin = 0; begin < values.numel(); begin += length) {
      sum.add(squared_norm(values.slice(0, begin, begin + length)));
    }
    EXPECT_EQ(sum.to_double(), whole) << num_shards << " shards";
  }
}

TEST(SquaredNorm, HasTheSameBitsForAnyThreadsAndKernels) {
  const at::Tensor values = random(500'009);
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const double expected = squared_norm(values, Kernels::operators).to_double();
  for (int num_threads : {1, 2, 3}) {
    at::set_num_threads(num_threads);
    for (Kernels kernels : {Kernels::baseline, Kernels::avx2, Kernels::avx512}) {
      if (kernels > best_kernels()) continue;
      EXPECT_EQ(squared_norm(values, kernels).to_double(), expected) << to_string(kernels);
    }
  }
  at::set_num_threads(before);
}

TEST(SquaredNorm, IsInfiniteWhenAValueIsNot) {
  for (float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    at::Tensor values = random(1000);
    values[777] = bad;
    EXPECT_TRUE(std::isinf(squared_norm(values).to_double()));
    EXPECT_TRUE(std::isinf(squared_norm(values, Kernels::operators).to_double()));
  }
}

TEST(ClipFactor, IsTorchs) {
  EXPECT_EQ(clip_factor(10, 0), 1);   // no clipping
  EXPECT_EQ(clip_factor(0.5, 1), 1);  // short enough
  EXPECT_EQ(clip_factor(4, 1), 1 / (4 + 1e-6));
  EXPECT_EQ(clip_factor(std::numeric_limits<double>::infinity(), 1), 0);
}

}  // namespace
}  // namespace outstep::optim
