#include "outstep/nn/kernels/attention.h"

#include "outstep/nn/kernels/kernels_testing.h"

namespace outstep::nn::kernels {
namespace {

struct Shape {
  int64_t batch, length, heads, channels;
};

void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.batch << " x " << s.length << ", " << s.heads << " heads of " << s.channels;
}

class AttentionShapes : public ::testing::TestWithParam<Shape> {};

TEST_P(AttentionShapes, EqualsThePlainForm) {
  const Shape s = GetParam();
  const int64_t width = s.heads * s.channels;
  const auto with = [&](auto form) {
    return [=](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
      return {form(in[0], in[1], s.heads)};
    };
  };
  const at::Tensor qkv = random_tensor({s.batch, s.length, 3 * width}, 1),
                   bias = random_tensor({3 * width}, 2);
  expect_same(with(causal_attention), with(causal_attention_plain), {qkv, bias}, 1e-5);
  expect_same(with(causal_attention), with(causal_attention_plain), {qkv.to(at::kBFloat16), bias},
              kBFloat16Tolerance);
}

INSTANTIATE_TEST_SUITE_P(All, AttentionShapes,
                         ::testing::Values(Shape{2, 128, 2, 64}, Shape{1, 1, 1, 16},
                                           Shape{2, 37, 3, 32}, Shape{1, 33, 2, 48},
                                           Shape{1, 300, 1, 16}, Shape{2, 8, 2, 12}));

TEST(Attention, HoldsForLargeScores) {
  const at::Tensor qkv = random_tensor({1, 40, 48}, 1, 0, 100).set_requires_grad(true);
  const at::Tensor y = causal_attention(qkv, at::zeros({48}), 1);
  y.sum().backward();
  EXPECT_TRUE(y.isfinite().all().item<bool>());
  EXPECT_TRUE(qkv.grad().isfinite().all().item<bool>());
}

TEST(Attention, HasTheSameBitsForAnyNumberOfThreads) {
  const auto run = [](int threads) {
    at::set_num_threads(threads);
    const at::Tensor qkv = random_tensor({3, 50, 96}, 1).set_requires_grad(true);
    causal_attention(qkv, random_tensor({96}, 2), 2).square().sum().backward();
    return qkv.grad();
  };
  const at::Tensor two = run(2);
  EXPECT_TRUE(bits_equal(run(1), two));
}

}  // namespace
}  // namespace outstep::nn::kernels
