#include "outstep/nn/kernels/attention.h"

#include "outstep/nn/kernels/kernels_testing.h"

namespace outstep::nn::kernels {
namespace {

struct Shape {
  int64_t batch, length, heads, channels;
  bool is_causal = true;
};

void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.batch << " x " << s.length << ", " << s.heads << " heads of " << s.channels
       << (s.is_causal ? "" : ", all seen");
}

class AttentionShapes : public ::testing::TestWithParam<Shape> {};

TEST_P(AttentionShapes, EqualsThePlainForm) {
  const Shape s = GetParam();
  const int64_t width = s.heads * s.channels;
  const auto with = [&](auto form) {
    return [=](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
      return {form(in[0], in[1], {s.heads, s.is_causal})};
    };
  };
  const at::Tensor qkv = random_tensor({s.batch, s.length, 3 * width}, 1),
                   bias = random_tensor({3 * width}, 2);
  expect_same(with(attention), with(attention_plain), {qkv, bias}, 1e-5, Products::contracted);
  expect_same(with(attention), with(attention_plain), {qkv.to(at::kBFloat16), bias},
              kBFloat16Tolerance, Products::contracted);
  expect_jvp(with(attention), {qkv, bias});
}

INSTANTIATE_TEST_SUITE_P(All, AttentionShapes,
                         ::testing::Values(Shape{2, 128, 2, 64}, Shape{1, 1, 1, 16},
                                           Shape{2, 37, 3, 32}, Shape{1, 33, 2, 48},
                                           Shape{1, 300, 1, 16}, Shape{2, 8, 2, 12},
                                           Shape{2, 64, 3, 64, false}, Shape{1, 65, 2, 16, false},
                                           Shape{3, 5, 1, 32, false}, Shape{2, 8, 2, 12, false}));

TEST(Attention, HoldsForLargeScores) {
  const at::Tensor qkv = random_tensor({1, 40, 48}, 1, 0, 100).set_requires_grad(true);
  const at::Tensor y = attention(qkv, at::zeros({48}), {.num_heads = 1});
  y.sum().backward();
  EXPECT_TRUE(y.isfinite().all().item<bool>());
  EXPECT_TRUE(qkv.grad().isfinite().all().item<bool>());
}

// The plain form is no measure: its blocks multiply other values by the weight 0, which spreads
// NaNs.
TEST(Attention, LetsNaNsSurvive) {
  constexpr int64_t kToken = 20, kWidth = 32, kLength = 40;
  for (const simd::Level level : levels()) {
    const ForcedLevel forced(level);
    for (int64_t part = 0; part < 3; ++part) {  // of q, k and v
      at::Tensor qkv = random_tensor({1, kLength, 3 * kWidth}, 1);
      qkv.select(1, kToken).select(1, part * kWidth + 3).fill_(std::nan(""));
      qkv.set_requires_grad(true);
      const at::Tensor y = attention(qkv, at::zeros({3 * kWidth}), {.num_heads = 2});
      y.sum().backward();
      const auto has_nan = [](const at::Tensor& t) { return t.isnan().any().item<bool>(); };
      const int64_t last = part == 0 ? kToken : kLength - 1;  // a query is its own token's
      for (int64_t t = kToken; t <= last; ++t) EXPECT_TRUE(has_nan(y[0][t])) << part << " " << t;
      EXPECT_TRUE(has_nan(qkv.grad()[0][kToken]));
      EXPECT_FALSE(has_nan(y.narrow(2, kWidth / 2, kWidth / 2))) << "the other head";
    }
  }
}

TEST(Attention, HasTheSameBitsForAnyNumberOfThreads) {
  const auto run = [](int threads) {
    at::set_num_threads(threads);
    const at::Tensor qkv = random_tensor({3, 50, 96}, 1).set_requires_grad(true);
    attention(qkv, random_tensor({96}, 2), {.num_heads = 2}).square().sum().backward();
    return qkv.grad();
  };
  const at::Tensor two = run(2);
  EXPECT_TRUE(bits_equal(run(1), two));
}

}  // namespace
}  // namespace outstep::nn::kernels
