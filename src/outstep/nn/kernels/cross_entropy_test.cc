#include "outstep/nn/kernels/cross_entropy.h"

#include "outstep/nn/kernels/kernels_testing.h"

namespace outstep::nn::kernels {
namespace {

auto with(decltype(cross_entropy) form, double smoothing) {
  return [=](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    return {form(in[0], in[1], smoothing)};
  };
}

TEST(CrossEntropy, EqualsThePlainForm) {
  for (const double smoothing : {0.0, 0.1}) {
    const auto fused = with(cross_entropy, smoothing), plain = with(cross_entropy_plain, smoothing);
    for (const int64_t classes : {2, 10, 16, 1003}) {
      const at::Tensor targets = at::arange(70, at::kLong).remainder(classes);
      const at::Tensor logits = random_tensor({70, classes}, 1, 5, 4);
      expect_same(fused, plain, {logits, targets}, kFloatTolerance);
      expect_same(fused, plain, {logits.to(at::kBFloat16), targets}, kBFloat16Tolerance);
    }
  }
}

TEST(CrossEntropy, HoldsForLargeLogits) {
  const at::Tensor logits =
      at::tensor({1e4f, -1e4f, 0.f, 3e38f, 0.f, -3e38f}).view({2, 3}).set_requires_grad(true);
  const at::Tensor loss = cross_entropy(logits, at::tensor({0, 0}, at::kLong), 0);
  loss.backward();
  EXPECT_EQ(loss.item<float>(), 0.f);
  EXPECT_EQ(logits.grad().abs().max().item<float>(), 0.f);
}

TEST(CrossEntropy, LetsALogitHideAClass) {
  const at::Tensor logits = at::tensor({1.f, -INFINITY, 2.f}).view({1, 3}),
                   target = at::tensor({0}, at::kLong);
  EXPECT_FLOAT_EQ(cross_entropy(logits, target, 0).item<float>(),
                  cross_entropy_plain(logits, target, 0).item<float>());
}

TEST(CrossEntropy, LetsNaNsSurvive) {
  for (const int64_t classes : {10, 40}) {
    const at::Tensor targets = at::arange(70, at::kLong).remainder(classes);
    at::Tensor logits = random_tensor({70, classes}, 1);
    expect_nans_survive(with(cross_entropy, 0), with(cross_entropy_plain, 0), {logits, targets});
    logits[3][classes - 1] = std::nan("");  // one of a row, in the vector that is not full
    expect_nans_survive(with(cross_entropy, 0), with(cross_entropy_plain, 0), {logits, targets});
  }
}

// Of two classes a row it is the weighted sum of their losses, and torch's own of probabilities.
TEST(CrossEntropy, OfProbabilitiesIsTheWeightedSum) {
  constexpr double kShare = 0.3;
  const at::Tensor first = at::arange(70, at::kLong).remainder(10), second = first.flip(0);
  const at::Tensor mixed = kShare * at::one_hot(first, 10).to(at::kDouble) +
                           (1 - kShare) * at::one_hot(second, 10).to(at::kDouble);
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const double smoothing : {0.0, 0.1}) {
      const auto soft = [&](const at::Tensor& x) {
        return soft_cross_entropy(x, mixed, smoothing);
      };
      const auto summed = [&](const at::Tensor& x) {
        return kShare * cross_entropy_plain(x, first, smoothing) +
               (1 - kShare) * cross_entropy_plain(x, second, smoothing);
      };
      const auto torchs = [&](const at::Tensor& x) {
        const at::Tensor wide = x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x;
        return at::cross_entropy_loss(wide, mixed.to(wide.scalar_type()), {}, at::Reduction::Mean,
                                      -100, smoothing);
      };
      const auto loss_and_gradient = [&](const auto& form) {
        const at::Tensor x = random_tensor({70, 10}, 1, 0, 2).to(type).requires_grad_();
        const at::Tensor loss = form(x);
        loss.backward();
        return std::pair(loss.detach().to(at::kDouble), x.grad().to(at::kDouble));
      };
      const auto [loss, gradient] = loss_and_gradient(soft);
      const double tolerance = type == at::kDouble ? 1e-14 : type == at::kFloat ? 1e-6 : 1e-2;
      for (const auto& [expected, expected_gradient] :
           {loss_and_gradient(summed), loss_and_gradient(torchs)}) {
        EXPECT_NEAR(loss.item<double>() / expected.item<double>(), 1, std::min(tolerance, 1e-6));
        EXPECT_LT(relative_difference(gradient, expected_gradient), tolerance);
      }
    }
  }
}

// A model may know more classes than the data has.
TEST(CrossEntropy, ProbabilitiesMayBeOfFewerClasses) {
  const at::Tensor logits = random_tensor({6, 9}, 1),
                   classes = at::tensor({0, 1, 2, 3, 0, 1}, at::kLong);
  const at::Tensor probabilities = at::one_hot(classes, 4).to(at::kDouble);
  for (const double smoothing : {0.0, 0.1}) {
    EXPECT_NEAR(soft_cross_entropy(logits, probabilities, smoothing).item<double>(),
                cross_entropy(logits, classes, smoothing).item<double>(), 1e-6);
  }
  EXPECT_THROW(soft_cross_entropy(logits, at::ones({6, 10}), 0), InternalError);
}

TEST(CrossEntropy, DifferentiatesForwards) {
  const at::Tensor targets = at::arange(70, at::kLong).remainder(10);
  expect_jvp(with(cross_entropy, 0.1), {random_tensor({70, 10}, 1), targets});
}

TEST(CrossEntropy, RefusesClassesOutOfRange) {
  const at::Tensor logits = at::zeros({2, 3});
  EXPECT_THROW(cross_entropy(logits, at::tensor({0, 3}, at::kLong), 0), InternalError);
  EXPECT_THROW(cross_entropy(logits, at::tensor({-1, 0}, at::kLong), 0), InternalError);
}

}  // namespace
}  // namespace outstep::nn::kernels
