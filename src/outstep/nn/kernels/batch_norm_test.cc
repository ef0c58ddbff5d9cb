#include "outstep/nn/kernels/batch_norm.h"

#include "outstep/nn/kernels/kernels_testing.h"

namespace outstep::nn::kernels {
namespace {

using Tensors = std::vector<at::Tensor>;

at::Tensor images(int64_t batch, int64_t channels, int64_t size, uint64_t stream, double mean = 0) {
  return random_tensor({batch, channels, size, size}, stream, mean)
      .contiguous(at::MemoryFormat::ChannelsLast);
}

// Runs a form and returns y and the moved statistics.
template <typename Form>
auto with(Form form, bool relu, bool adds) {
  return [=](const Tensors& in) -> Tensors {
    const at::TensorOptions type = in[1].options();
    const at::Tensor mean = at::full({in[0].size(1)}, 0.5, type),
                     var = at::full({in[0].size(1)}, 2.0, type);
    const at::Tensor y = form(in[0], BatchNormOptions{.gain = in[1],
                                                      .bias = in[2],
                                                      .running_mean = mean,
                                                      .running_var = var,
                                                      .relu = relu,
                                                      .residual = adds ? in[3] : at::Tensor()});
    return {y, mean, var};
  };
}

TEST(BatchNorm, EqualsThePlainForm) {
  for (const int64_t channels : {16, 32, 48, 64, 128, 5}) {
    for (const bool relu : {false, true}) {
      for (const bool adds : {false, true}) {
        if (adds && !relu) continue;
        Tensors in = {images(6, channels, 7, 1, 3), random_tensor({channels}, 2, 1),
                      random_tensor({channels}, 3), images(6, channels, 7, 4)};
        if (!adds) in.pop_back();
        SCOPED_TRACE(channels);
        expect_same(with(batch_norm, relu, adds), with(batch_norm_plain, relu, adds), in, 1e-5);
      }
    }
  }
}

// Among so many elements rounding turns the sign of one, and the ReLU lets its gradient through or
// not: none here.
TEST(BatchNorm, EqualsThePlainFormOverSeveralChunks) {
  const Tensors in = {images(40, 16, 16, 1), random_tensor({16}, 2, 1), random_tensor({16}, 3)};
  expect_same(with(batch_norm, false, false), with(batch_norm_plain, false, false), in, 1e-5);
}

// Likewise.
TEST(BatchNorm, EqualsThePlainFormInBFloat16) {
  const Tensors in = {images(6, 32, 7, 1).to(at::kBFloat16), random_tensor({32}, 2, 1),
                      random_tensor({32}, 3)};
  expect_same(with(batch_norm, false, false), with(batch_norm_plain, false, false), in,
              kBFloat16Tolerance);
}

TEST(BatchNorm, LetsNaNsSurvive) {
  const Tensors in = {images(6, 32, 7, 1, 3), random_tensor({32}, 2, 1), random_tensor({32}, 3),
                      images(6, 32, 7, 4)};
  expect_nans_survive(with(batch_norm, true, true), with(batch_norm_plain, true, true), in);
  const Tensors alone(in.begin(), in.begin() + 3);
  for (const bool relu : {false, true}) {
    expect_nans_survive(with(batch_norm, relu, false), with(batch_norm_plain, relu, false), alone);
  }
}

TEST(BatchNorm, DifferentiatesForwards) {
  const Tensors in = {images(6, 16, 7, 1, 3), random_tensor({16}, 2, 1), random_tensor({16}, 3),
                      images(6, 16, 7, 4)};
  expect_jvp(
      [](const Tensors& duals) -> Tensors { return {with(batch_norm, true, true)(duals)[0]}; }, in);
}

TEST(BatchNorm, KeepsTheVarianceOfADistantMean) {
  const at::Tensor x = images(8, 16, 8, 1).add_(1e4).contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor mean = at::zeros({16}), var = at::zeros({16});
  batch_norm(x, {.gain = at::ones({16}),
                 .bias = at::zeros({16}),
                 .running_mean = mean,
                 .running_var = var,
                 .momentum = 1});
  const at::Tensor expected = x.to(at::kDouble).var({0, 2, 3}).to(at::kFloat);
  EXPECT_LT(relative_difference(var, expected), 1e-3);
}

TEST(BatchNorm, HasTheSameBitsForAnyNumberOfThreads) {
  const auto run = [](int threads) {
    at::set_num_threads(threads);
    const at::Tensor x = images(40, 16, 16, 1).set_requires_grad(true);
    const at::Tensor gain = at::ones({16}).set_requires_grad(true);
    batch_norm(x, {.gain = gain,
                   .bias = at::zeros({16}),
                   .running_mean = at::zeros({16}),
                   .running_var = at::ones({16}),
                   .relu = true})
        .square()
        .sum()
        .backward();
    return at::cat({x.grad().flatten(), gain.grad()});
  };
  const at::Tensor two = run(2);
  EXPECT_TRUE(bits_equal(run(1), two));
}

}  // namespace
}  // namespace outstep::nn::kernels
