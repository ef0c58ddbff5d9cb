#pragma once

#include <functional>
#include <vector>

#include "outstep/nn/testing.h"

namespace outstep::nn::kernels {

using Operator = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

// Runs both forms on the same inputs and compares results and gradients of all inputs that are
// float32 or bfloat16, for random gradients of the results. The tolerance is relative to each
// tensor's largest element.
inline void expect_same(const Operator& fused, const Operator& plain,
                        const std::vector<at::Tensor>& inputs, double tolerance) {
  const auto run = [&](const Operator& op) {
    std::vector<at::Tensor> leaves;
    for (const at::Tensor& input : inputs) {
      at::Tensor leaf = input.detach().clone();
      if (leaf.is_floating_point()) leaf.set_requires_grad(true);
      leaves.push_back(leaf);
    }
    std::vector<at::Tensor> results = op(leaves);
    at::Tensor total = at::zeros({});
    for (size_t i = 0; i < results.size(); ++i) {
      at::Tensor weights = at::empty(results[i].sizes());
      fill_normal(weights, 0, 1, {.seed = i, .purpose = purpose("test.gradient")});
      total = total + (results[i].to(at::kFloat) * weights).sum();
    }
    total.backward();
    for (const at::Tensor& leaf : leaves) {
      if (leaf.is_floating_point()) results.push_back(leaf.grad());
    }
    return results;
  };
  const auto found = run(fused), expected = run(plain);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_TRUE(found[i].defined()) << "tensor " << i;
    EXPECT_EQ(found[i].scalar_type(), expected[i].scalar_type()) << "tensor " << i;
    ASSERT_EQ(found[i].sizes(), expected[i].sizes()) << "tensor " << i;
    EXPECT_LT(
        relative_difference(found[i].detach().to(at::kFloat), expected[i].detach().to(at::kFloat)),
        tolerance)
        << "tensor " << i;
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
