#include "outstep/nn/kernels/bias_gelu.h"

#include "outstep/nn/kernels/kernels_testing.h"

namespace outstep::nn::kernels {
namespace {

std::vector<at::Tensor> fused(const std::vector<at::Tensor>& in) {
  return {bias_gelu(in[0], in[1])};
}
std::vector<at::Tensor> plain(const std::vector<at::Tensor>& in) {
  return {bias_gelu_plain(in[0], in[1])};
}

TEST(BiasGelu, EqualsThePlainForm) {
  for (const int64_t columns : {1, 16, 37, 256}) {
    const at::Tensor x = random_tensor({150, columns}, 1, 0, 3), bias = random_tensor({columns}, 2);
    expect_same(fused, plain, {x, bias}, kFloatTolerance);
    expect_same(fused, plain, {x.to(at::kBFloat16), bias}, kBFloat16Tolerance);
    expect_same(fused, plain, {x.to(at::kDouble), bias.to(at::kDouble)}, 1e-12);
  }
}

TEST(BiasGelu, LetsNaNsSurvive) {
  expect_nans_survive(fused, plain, {random_tensor({150, 37}, 1), random_tensor({37}, 2)});
}

TEST(BiasGelu, DifferentiatesForwards) {
  expect_jvp(fused, {random_tensor({15, 37}, 1), random_tensor({37}, 2)});
}

TEST(BiasGelu, HoldsFarFromZero) {
  const at::Tensor x =
      at::tensor({-1e30f, -90.f, -12.f, -1e-20f, 0.f, 12.f, 90.f, 1e15f}).view({1, 8});
  const at::Tensor y = bias_gelu(x, at::zeros({8}));
  const std::vector<float> expected = {0, 0, 0, -5e-21f, 0, 12, 90, 1e15f};
  for (int64_t i = 0; i < 8; ++i)
    EXPECT_NEAR(y[0][i].item<float>(), expected[static_cast<size_t>(i)], 1e-6f) << i;
}

TEST(BiasGelu, HasTheSameBitsForAnyNumberOfThreads) {
  const auto gradient_of_bias = [](int threads) {
    at::set_num_threads(threads);
    at::Tensor bias = random_tensor({128}, 2).set_requires_grad(true);
    bias_gelu(random_tensor({1000, 128}, 1), bias).sum().backward();
    return bias.grad();
  };
  const at::Tensor two = gradient_of_bias(2);
  EXPECT_TRUE(bits_equal(gradient_of_bias(1), two));
}

}  // namespace
}  // namespace outstep::nn::kernels
