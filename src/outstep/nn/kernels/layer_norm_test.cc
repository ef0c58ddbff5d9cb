#include "outstep/nn/kernels/layer_norm.h"

#include "outstep/nn/kernels/kernels_testing.h"

namespace outstep::nn::kernels {
namespace {

using Tensors = std::vector<at::Tensor>;

Tensors inputs(int64_t columns, at::ScalarType addend_type = at::kFloat) {
  return {random_tensor({150, columns}, 1, 2), random_tensor({columns}, 2, 1),
          random_tensor({columns}, 3), random_tensor({150, columns}, 4).to(addend_type),
          random_tensor({columns}, 5)};
}

class Autocast {
 public:
  explicit Autocast(bool enabled) {
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    at::autocast::set_autocast_enabled(at::kCPU, enabled);
  }
  ~Autocast() { at::autocast::set_autocast_enabled(at::kCPU, false); }
};

auto with(decltype(layer_norm) form) {
  return [=](const Tensors& in) -> Tensors { return {form(in[0], NormOptions{in[1], in[2]})}; };
}
auto with(decltype(add_layer_norm) form) {
  return [=](const Tensors& in) -> Tensors {
    const AddedNorm both = form(in[0], in[3], in[4], NormOptions{in[1], in[2]});
    return {both.sum, both.normed};
  };
}
// Of x, addend and its bias.
auto with(decltype(add_biased) form) {
  return [=](const Tensors& in) -> Tensors { return {form(in[0], in[1], in[2])}; };
}

TEST(LayerNorm, EqualsThePlainForm) {
  for (const int64_t columns : {16, 48, 256, 37}) {
    Tensors in = inputs(columns);
    in.resize(3);
    expect_same(with(layer_norm), with(layer_norm_plain), in, kFloatTolerance);
  }
}

TEST(LayerNorm, GivesWhatAutocastWouldCastTo) {
  const Tensors in = inputs(64);
  const Autocast autocast(true);
  const at::Tensor y = layer_norm(in[0], {in[1], in[2]});
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(bits_equal(y, [&] {
    const Autocast off(false);
    return layer_norm(in[0], {in[1], in[2]}).to(at::kBFloat16);
  }()));
}

TEST(AddLayerNorm, EqualsThePlainForm) {
  for (const int64_t columns : {16, 256, 37}) {
    expect_same(with(add_layer_norm), with(add_layer_norm_plain), inputs(columns), kFloatTolerance);
    expect_same(with(add_layer_norm), with(add_layer_norm_plain), inputs(columns, at::kBFloat16),
                kBFloat16Tolerance);
  }
}

TEST(AddLayerNorm, WorksWhereTheSumGoesNowhereElse) {
  const auto normed_only = [](auto form) {
    return [form](const Tensors& in) -> Tensors {
      return {form(in[0], in[3], in[4], NormOptions{in[1], in[2]}).normed};
    };
  };
  expect_same(normed_only(add_layer_norm), normed_only(add_layer_norm_plain), inputs(32),
              kFloatTolerance);
}

TEST(AddBiased, EqualsThePlainForm) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensors in = inputs(64, type);
    expect_same(with(add_biased), with(add_biased_plain), {in[0], in[3], in[4]},
                type == at::kFloat ? kFloatTolerance : kBFloat16Tolerance);
  }
}

TEST(LayerNormKernels, LetNaNsSurvive) {
  const Tensors in = inputs(48);
  expect_nans_survive(with(layer_norm), with(layer_norm_plain), {in[0], in[1], in[2]});
  expect_nans_survive(with(add_layer_norm), with(add_layer_norm_plain), in);
  expect_nans_survive(with(add_biased), with(add_biased_plain), {in[0], in[3], in[4]});
}

TEST(LayerNormKernels, DifferentiateForwards) {
  const Tensors in = inputs(48);
  expect_jvp(with(layer_norm), {in[0], in[1], in[2]});
  expect_jvp(with(add_layer_norm), in);
  expect_jvp(with(add_biased), {in[0], in[3], in[4]});
}

}  // namespace
}  // namespace outstep::nn::kernels
