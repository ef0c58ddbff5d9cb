#include <cmath>

#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

at::Tensor filled(const Init& init, at::IntArrayRef shape, uint64_t seed = 1) {
  at::Tensor values = at::empty(shape);
  init(values, {.seed = seed, .purpose = purpose("test")});
  return values;
}

TEST(Init, Constants) {
  EXPECT_TRUE(bits_equal(filled(init::zeros(), {3}), at::zeros({3})));
  EXPECT_TRUE(bits_equal(filled(init::ones(), {3}), at::ones({3})));
  EXPECT_TRUE(bits_equal(filled(init::constant(2.5), {3}), at::full({3}, 2.5f)));
}

TEST(Init, NormalHasItsDeviation) {
  const at::Tensor values = filled(init::normal(0.02), {400, 250});
  EXPECT_NEAR(values.mean().item<double>(), 0, 0.0003);
  EXPECT_NEAR(values.std().item<double>(), 0.02, 0.0003);
  EXPECT_FALSE(bits_equal(values, filled(init::normal(0.02), {400, 250}, 2)));
}

TEST(Init, KaimingNormalUsesFanOut) {
  const at::Tensor values = filled(init::kaiming_normal_fan_out(), {128, 64, 3, 3});
  EXPECT_NEAR(values.std().item<double>(), std::sqrt(2.0 / (128 * 9)), 0.0005);
}

TEST(Init, KaimingUniformFillsItsBound) {
  const at::Tensor values = filled(init::kaiming_uniform_fan_in(), {300, 100});
  EXPECT_LE(values.abs().max().item<double>(), 0.1);
  EXPECT_NEAR(values.abs().max().item<double>(), 0.1, 0.0001);
  EXPECT_NEAR(values.std().item<double>(), 0.1 / std::sqrt(3.0), 0.0005);
}

// The values belong to the logical elements, however these lie in memory.
TEST(Init, DoesNotDependOnStrides) {
  const at::Tensor plain = filled(init::kaiming_normal_fan_out(), {8, 4, 3, 3});
  at::Tensor strided = at::empty({8, 4, 3, 3}, at::MemoryFormat::ChannelsLast);
  init::kaiming_normal_fan_out()(strided, {.seed = 1, .purpose = purpose("test")});
  EXPECT_TRUE(bits_equal(strided, plain));
}

}  // namespace
}  // namespace outstep::nn
