#include "outstep/base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <set>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/base/rng_kernels.h"

namespace outstep {
namespace {

using Block = std::array<uint32_t, 4>;

// The known-answer vectors of Random123 (Salmon et al., SC 2011).
TEST(Philox, GivesThePublishedAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(CounterRng, IsAFunctionOfItsKey) {
  const RngKey key{.seed = 5, .purpose = purpose("a"), .stream = 7};
  CounterRng a(key), b(key);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(a.next_u32(), b.next_u32());

  std::set<uint64_t> first;
  first.insert(CounterRng(key).next_u64());
  first.insert(CounterRng({.seed = 6, .purpose = key.purpose, .stream = 7}).next_u64());
  first.insert(CounterRng({.seed = 5, .purpose = purpose("b"), .stream = 7}).next_u64());
  first.insert(CounterRng({.seed = 5, .purpose = key.purpose, .stream = 8}).next_u64());
  first.insert(
      CounterRng({.seed = 5, .purpose = key.purpose, .stream = 7ull + (1ull << 40)}).next_u64());
  EXPECT_EQ(first.size(), 5u) << "every part of the key must matter";
}

TEST(CounterRng, BelowIsUniform) {
  CounterRng rng({.seed = 1});
  std::array<int, 6> counts{};
  for (int i = 0; i < 60000; ++i) ++counts[rng.below(6)];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 5 * 91);  // five standard deviations
}

TEST(CounterRng, UniformHasItsMoments) {
  CounterRng rng({.seed = 2});
  double sum = 0, squares = 0;
  constexpr int kCount = 100000;
  for (int i = 0; i < kCount; ++i) {
    const double u = rng.uniform();
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / kCount, 0.5, 0.005);
  EXPECT_NEAR(squares / kCount, 1.0 / 3, 0.005);
}

TEST(FillNormal, HasItsMomentsAndDependsOnTheKeyOnly) {
  at::Tensor values = at::empty({1001, 203});
  fill_normal(values, 3, 0.5, {.seed = 9});
  EXPECT_NEAR(values.mean().item<double>(), 3, 0.006);
  EXPECT_NEAR(values.std().item<double>(), 0.5, 0.004);

  at::Tensor other_strides = at::empty({203, 1001}).t();
  fill_normal(other_strides, 3, 0.5, {.seed = 9});
  EXPECT_TRUE(at::equal(values, other_strides));

  const int num_threads = at::get_num_threads();
  at::set_num_threads(1);
  at::Tensor serial = at::empty({1001, 203});
  fill_normal(serial, 3, 0.5, {.seed = 9});
  at::set_num_threads(num_threads);
  EXPECT_TRUE(at::equal(values, serial));

  fill_normal(serial, 3, 0.5, {.seed = 10});
  EXPECT_FALSE(at::equal(values, serial));
}

// What fill_normal is: Box-Muller on pairs of a block's numbers, here by libm.
TEST(FillNormal, IsBoxMullerOnTheStreamsBlocks) {
  const RngKey key{.seed = 0x123456789abcdef, .purpose = 77, .stream = 0x8765'4321'0fed};
  constexpr int64_t kCount = 400'001;
  at::Tensor values = at::empty({kCount}, at::kDouble);
  at::Tensor uniform = at::empty({kCount}, at::kDouble);
  fill_normal(values, 0, 1, key);
  fill_uniform(uniform, 0, 1, key);
  const double* z = values.const_data_ptr<double>();
  const double* u = uniform.const_data_ptr<double>();
  CounterRng rng(key);
  for (int64_t i = 0; i + 1 < kCount; i += 2) {
    const uint32_t first = rng.next_u32(), second = rng.next_u32();
    ASSERT_EQ(u[i], first * 0x1p-32);
    ASSERT_EQ(u[i + 1], second * 0x1p-32);
    const double radius = std::sqrt(-2 * std::log((first + 1.0) * 0x1p-32));
    const double angle = 2 * std::numbers::pi * second * 0x1p-32;
    ASSERT_NEAR(z[i], radius * std::cos(angle), 2e-15 * radius) << i;
    ASSERT_NEAR(z[i + 1], radius * std::sin(angle), 2e-15 * radius) << i;
  }
}

TEST(RngKernels, GiveTheSameBits) {
  if (rng::best_kernels() == rng::Kernels::baseline) GTEST_SKIP() << "there is only one here";
  for (const auto distribution : {rng::Distribution::normal, rng::Distribution::uniform}) {
    // The counter's carry into its upper half lies within.
    const rng::Values values{.distribution = distribution,
                             .key = {.seed = 3, .purpose = 5, .stream = 1ull << 40},
                             .first = (4ll << 32) - 10'000,
                             .count = 20'011,
                             .offset = 0.1,
                             .scale = 3};
    std::vector<float> narrow(values.count), other_narrow(values.count);
    std::vector<double> wide(values.count), other_wide(values.count);
    rng::write(rng::Kernels::baseline, values, narrow.data());
    rng::write(rng::Kernels::avx2, values, other_narrow.data());
    rng::write(rng::Kernels::baseline, values, wide.data());
    rng::write(rng::Kernels::avx2, values, other_wide.data());
    EXPECT_EQ(narrow, other_narrow);
    EXPECT_EQ(wide, other_wide);
    EXPECT_EQ(std::vector<float>(wide.begin(), wide.end()), narrow);
  }
}

// Element i is a function of i: a longer fill begins with the shorter one, across chunks too.
TEST(FillNormal, DependsOnThePositionOnly) {
  at::Tensor shorter = at::empty({(1 << 20) + 7});
  at::Tensor longer = at::empty({(1 << 20) + 5000});
  fill_normal(shorter, 0, 1, {.seed = 4});
  fill_normal(longer, 0, 1, {.seed = 4});
  EXPECT_TRUE(at::equal(shorter, longer.narrow(0, 0, shorter.numel())));

  at::Tensor doubles = at::empty({5}, at::kDouble), halves = at::empty({5}, at::kBFloat16);
  fill_normal(doubles, 0, 1, {.seed = 4});
  fill_normal(halves, 0, 1, {.seed = 4});
  EXPECT_TRUE(at::equal(doubles.to(at::kBFloat16), halves));
  at::Tensor nothing = at::empty({0, 3});
  fill_normal(nothing, 0, 1, {.seed = 4});
}

TEST(Rng, RefusesWhatItCannotTellApart) {
  const RngKey beyond{.seed = 1, .stream = uint64_t{1} << 48};
  at::Tensor values = at::empty({4});
  EXPECT_THROW(CounterRng{beyond}, InternalError);
  EXPECT_THROW(fill_normal(values, 0, 1, beyond), InternalError);
  EXPECT_THROW(Permutation(4, beyond), InternalError);
  EXPECT_THROW(Permutation(0, {}), InternalError);
  EXPECT_THROW(Permutation(4, {})[4], InternalError);
  at::Tensor integers = at::empty({4}, at::kLong);
  EXPECT_THROW(fill_uniform(integers, 0, 1, {}), InternalError);
}

TEST(FillUniform, StaysWithinItsBounds) {
  at::Tensor values = at::empty({100000});
  fill_uniform(values, -2, 6, {.seed = 3});
  EXPECT_GE(values.min().item<double>(), -2);
  EXPECT_LE(values.max().item<double>(), 6);
  EXPECT_NEAR(values.mean().item<double>(), 2, 0.04);
}

class PermutationOf : public testing::TestWithParam<uint64_t> {};

TEST_P(PermutationOf, VisitsEveryElementOnce) {
  const Permutation permutation(GetParam(), {.seed = 1, .purpose = purpose("test")});
  std::vector<bool> seen(GetParam());
  for (uint64_t i = 0; i < GetParam(); ++i) {
    const uint64_t image = permutation[i];
    ASSERT_LT(image, GetParam());
    ASSERT_FALSE(seen[image]) << image << " comes twice";
    seen[image] = true;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, PermutationOf, testing::Values(1, 2, 3, 7, 1000, 65536, 65537));

TEST(Permutation, ShufflesAndDiffersByKey) {
  const Permutation a(1000, {.seed = 1}), b(1000, {.seed = 2});
  int fixed = 0, common = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    fixed += a[i] == i;
    common += a[i] == b[i];
  }
  EXPECT_LT(fixed, 10);
  EXPECT_LT(common, 10);
}

}  // namespace
}  // namespace outstep
