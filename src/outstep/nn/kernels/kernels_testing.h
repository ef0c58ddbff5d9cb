#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "outstep/nn/kernels/simd.h"
#include "outstep/nn/testing.h"

namespace outstep::nn::kernels {

using Operator = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

// Makes kernels run one version for a while.
class ForcedLevel {
 public:
  explicit ForcedLevel(simd::Level level) : before_(simd::level_in_use().exchange(level)) {}
  ~ForcedLevel() { simd::level_in_use() = before_; }
  ForcedLevel(const ForcedLevel&) = delete;
  ForcedLevel& operator=(const ForcedLevel&) = delete;

 private:
  simd::Level before_;
};

// Those that this processor runs.
inline std::vector<simd::Level> levels() {
  std::vector<simd::Level> all = {simd::Level::baseline, simd::Level::avx2, simd::Level::avx512};
  while (all.back() > simd::best_level()) all.pop_back();
  return all;
}

// Results, then gradients of all inputs that are floating-point, for random gradients of the
// results.
inline std::vector<at::Tensor> results_and_gradients(const Operator& op,
                                                     const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) {
    at::Tensor leaf = input.detach().clone();
    if (leaf.is_floating_point()) leaf.set_requires_grad(true);
    leaves.push_back(leaf);
  }
  std::vector<at::Tensor> found = op(leaves);
  at::Tensor total = at::zeros({});
  for (size_t i = 0; i < found.size(); ++i) {
    at::Tensor weights = at::empty(found[i].sizes());
    fill_normal(weights, 0, 1, {.seed = i, .purpose = purpose("test.gradient")});
    total = total + (found[i].to(at::kFloat) * weights).sum();
  }
  total.backward();
  for (const at::Tensor& leaf : leaves) {
    if (leaf.is_floating_point()) found.push_back(leaf.grad());
  }
  return found;
}

// Whether a kernel rounds products before it adds them. One that does not (simd::multiply_add) has
// bits of its own at the baseline, which lacks the instruction.
enum class Products { rounded, contracted };

// Compares every version of the fused form with the plain one: results and gradients. The tolerance
// is relative to each tensor's largest element. Versions have the same bits.
inline void expect_same(const Operator& fused, const Operator& plain,
                        const std::vector<at::Tensor>& inputs, double tolerance,
                        Products products = Products::rounded) {
  const auto expected = results_and_gradients(plain, inputs);
  std::vector<at::Tensor> before;
  for (const simd::Level level : levels()) {
    SCOPED_TRACE("level " + std::to_string(static_cast<int>(level)));
    const ForcedLevel forced(level);
    const auto found = results_and_gradients(fused, inputs);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      ASSERT_TRUE(found[i].defined()) << "tensor " << i;
      EXPECT_EQ(found[i].scalar_type(), expected[i].scalar_type()) << "tensor " << i;
      ASSERT_EQ(found[i].sizes(), expected[i].sizes()) << "tensor " << i;
      EXPECT_LT(relative_difference(found[i].detach().to(at::kFloat),
                                    expected[i].detach().to(at::kFloat)),
                tolerance)
          << "tensor " << i;
      EXPECT_TRUE(before.empty() || bits_equal(found[i], before[i])) << "tensor " << i;
    }
    const bool differs = products == Products::contracted && level == simd::Level::baseline;
    if (!differs) before = found;
  }
}

// Where an input has a NaN, every version of the fused form gives a NaN wherever the plain form
// does.
inline void expect_nans_survive(const Operator& fused, const Operator& plain,
                                const std::vector<at::Tensor>& inputs) {
  for (size_t spoiled = 0; spoiled < inputs.size(); ++spoiled) {
    if (!inputs[spoiled].is_floating_point()) continue;
    std::vector<at::Tensor> with_nan = inputs;
    with_nan[spoiled] = inputs[spoiled].clone();
    with_nan[spoiled].select(0, 1).fill_(std::nan(""));
    const auto expected = results_and_gradients(plain, with_nan);
    for (const simd::Level level : levels()) {
      const ForcedLevel forced(level);
      const auto found = results_and_gradients(fused, with_nan);
      for (size_t i = 0; i < found.size(); ++i) {
        EXPECT_TRUE(found[i].isnan().ge(expected[i].isnan()).all().item<bool>())
            << "tensor " << i << " with NaN in input " << spoiled << ", level "
            << static_cast<int>(level);
      }
    }
  }
}

// Forward-mode differentiation along random tangents against central differences in double. Float32
// inputs, so that the form with formulas has to take over from the fused one, and the same in
// double.
inline void expect_jvp(const Operator& op, const std::vector<at::Tensor>& inputs) {
  const at::NoGradGuard no_grad;
  constexpr double kStep = 1e-6;
  std::vector<at::Tensor> tangents;
  for (size_t i = 0; i < inputs.size(); ++i) {
    tangents.push_back(at::empty(inputs[i].sizes()));
    fill_normal(tangents[i], 0, 1, {.seed = i, .purpose = purpose("test.tangent")});
  }
  const auto results_at = [&](double step) {
    std::vector<at::Tensor> moved = inputs;
    for (size_t i = 0; i < moved.size(); ++i) {
      if (moved[i].is_floating_point()) moved[i] = moved[i].to(at::kDouble).add(tangents[i], step);
    }
    return op(moved);
  };
  const auto after = results_at(kStep), before = results_at(-kStep);
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const DualLevel level;
    std::vector<at::Tensor> duals = inputs;
    for (size_t i = 0; i < duals.size(); ++i) {
      if (duals[i].is_floating_point())
        duals[i] = level.dual(duals[i].to(type), tangents[i].to(type));
    }
    const auto results = op(duals);
    for (size_t i = 0; i < results.size(); ++i) {
      const at::Tensor found = level.tangent_of(results[i]);
      ASSERT_TRUE(found.defined()) << "result " << i;
      EXPECT_LT(relative_difference(found.to(at::kDouble), (after[i] - before[i]) / (2 * kStep)),
                type == at::kFloat ? 1e-4 : 1e-7)
          << "result " << i;
    }
  }
}

inline at::Tensor random_tensor(at::IntArrayRef shape, uint64_t stream, double mean = 0,
                                double deviation = 1) {
  at::Tensor values = at::empty(shape);
  fill_normal(values, mean, deviation, {.seed = 7, .purpose = purpose("test"), .stream = stream});
  return values;
}

constexpr double kFloatTolerance = 3e-6;
constexpr double kBFloat16Tolerance = 0.02;  // plain forms round in between

}  // namespace outstep::nn::kernels
