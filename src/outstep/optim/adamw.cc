#include "outstep/optim/adamw.h"

#include <cmath>
#include <utility>

#include "outstep/optim/simd.h"

namespace outstep::optim {
namespace {

using simd::F32x16;
using simd::kLanes;

// One update's numbers.
template <typename T>
struct NumbersOf {
  T gradient_scale;
  T one_minus_beta1;
  T beta2;
  T one_minus_beta2;
  T root_correction;  // 1 / √(1 − β2^t)
  T epsilon;
  T step_size;  // lr / (1 − β1^t)
  T decay;      // 1 − lr · weight_decay
};
using Numbers = NumbersOf<float>;

// The outs of m and v are null in a tentative step.
struct Pointers {
  int64_t size;
  const float* gradient;
  const float* params_in;
  float* params_out;
  const float* m_in;
  const float* v_in;
  float* m_out;
  float* v_out;
};

template <bool kKeepsState>
OUTSTEP_INLINE void update_lanes(const Numbers& numbers, const Pointers& at, int64_t i) {
  F32x16 g, p, m, v;
  simd::load(g, at.gradient + i);
  simd::load(p, at.params_in + i);
  simd::load(m, at.m_in + i);
  simd::load(v, at.v_in + i);
  g = g * numbers.gradient_scale;
  m = m + (g - m) * numbers.one_minus_beta1;
  v = v * numbers.beta2 + g * g * numbers.one_minus_beta2;
  if constexpr (kKeepsState) {
    simd::store(m, at.m_out + i);
    simd::store(v, at.v_out + i);
  }
  simd::replace_by_root(v);
  p = p * numbers.decay - m * numbers.step_size / (v * numbers.root_correction + numbers.epsilon);
  simd::store(p, at.params_out + i);
}

template <bool kKeepsState>
// Numbers and pointers by value: what is stored cannot change them, so they stay in registers.
OUTSTEP_INLINE void update_range(const Numbers numbers, const Pointers at) {
  int64_t i = 0;
  for (; i + kLanes <= at.size; i += kLanes) update_lanes<kKeepsState>(numbers, at, i);
  if (i == at.size) return;
  // The rest, in lanes of its own: the same arithmetic as above.
  const size_t rest_bytes = static_cast<size_t>(at.size - i) * sizeof(float);
  float g[kLanes] = {}, p[kLanes] = {}, m[kLanes] = {}, v[kLanes] = {};
  std::memcpy(g, at.gradient + i, rest_bytes);
  std::memcpy(p, at.params_in + i, rest_bytes);
  std::memcpy(m, at.m_in + i, rest_bytes);
  std::memcpy(v, at.v_in + i, rest_bytes);
  update_lanes<true>(numbers, {kLanes, g, p, p, m, v, m, v}, 0);
  std::memcpy(at.params_out + i, p, rest_bytes);
  if constexpr (kKeepsState) {
    std::memcpy(at.m_out + i, m, rest_bytes);
    std::memcpy(at.v_out + i, v, rest_bytes);
  }
}

OUTSTEP_INLINE void update_any(const Numbers& numbers, const Pointers& at) {
  if (at.m_out != nullptr) {
    update_range<true>(numbers, at);
  } else {
    update_range<false>(numbers, at);
  }
}
void update_baseline(const Numbers& numbers, const Pointers& at) { update_any(numbers, at); }
OUTSTEP_TARGET_AVX2 void update_avx2(const Numbers& numbers, const Pointers& at) {
  update_any(numbers, at);
}
OUTSTEP_TARGET_AVX512 void update_avx512(const Numbers& numbers, const Pointers& at) {
  update_any(numbers, at);
}

// Rounded once, as IEEE 754 says: ATen's float root on a CPU is MKL's, whose last bit differs
// between processors. A double's root is exact enough that rounding it to float gives the float's
// root.
at::Tensor root_of(const at::Tensor& v) {
  return v.is_cpu() ? v.to(at::kDouble).sqrt_().to(v.scalar_type()) : v.sqrt();
}

}  // namespace

Adamw::Adamw(AdamwOptions options, std::vector<Segment> segments, Kernels kernels)
    : ElementwiseOptimizer("adamw", {"exp_avg", "exp_avg_sq"}, std::move(segments), kernels),
      options_(options) {}

Adamw::Rule Adamw::rule(double gradient_scale, double lr, int64_t step) const {
  const double t = static_cast<double>(step);
  const double correction1 = 1 - std::pow(options_.beta1, t);
  const double correction2 = 1 - std::pow(options_.beta2, t);
  const NumbersOf<double> exact{.gradient_scale = gradient_scale,
                                .one_minus_beta1 = 1 - options_.beta1,
                                .beta2 = options_.beta2,
                                .one_minus_beta2 = 1 - options_.beta2,
                                .root_correction = 1 / std::sqrt(correction2),
                                .epsilon = options_.epsilon,
                                .step_size = lr / correction1,
                                .decay = 1 - lr * options_.weight_decay};
  const Numbers numbers{.gradient_scale = static_cast<float>(exact.gradient_scale),
                        .one_minus_beta1 = static_cast<float>(exact.one_minus_beta1),
                        .beta2 = static_cast<float>(exact.beta2),
                        .one_minus_beta2 = static_cast<float>(exact.one_minus_beta2),
                        .root_correction = static_cast<float>(exact.root_correction),
                        .epsilon = static_cast<float>(exact.epsilon),
                        .step_size = static_cast<float>(exact.step_size),
                        .decay = static_cast<float>(exact.decay)};
  const auto kernel = simd::pick(kernels(), update_baseline, update_avx2, update_avx512);
  const auto on_cpu = [=](const Piece& piece) {
    Numbers here = numbers;
    if (!piece.decays) here.decay = 1;
    kernel(here, {.size = piece.size,
                  .gradient = piece.gradient,
                  .params_in = piece.params_in,
                  .params_out = piece.params_out,
                  .m_in = piece.state_in[0],
                  .v_in = piece.state_in[1],
                  .m_out = piece.state_out[0],
                  .v_out = piece.state_out[1]});
  };
  const auto by_operators_with = [=](const auto& k, const TensorPiece& piece) {
    const at::Tensor g = piece.gradient * k.gradient_scale;
    const at::Tensor m = piece.state_in[0] + (g - piece.state_in[0]) * k.one_minus_beta1;
    const at::Tensor v = piece.state_in[1] * k.beta2 + g * g * k.one_minus_beta2;
    const at::Tensor root = root_of(v) * k.root_correction + k.epsilon;
    const auto decay = piece.decays ? k.decay : 1;
    piece.params_out.copy_(piece.params_in * decay - m * k.step_size / root);
    if (!piece.state_out.empty()) {
      piece.state_out[0].copy_(m);
      piece.state_out[1].copy_(v);
    }
  };
  const auto by_operators = [=](const TensorPiece& piece) {
    if (piece.params_in.scalar_type() == at::kDouble) {
      by_operators_with(exact, piece);
    } else {
      by_operators_with(numbers, piece);
    }
  };
  return {on_cpu, by_operators};
}

}  // namespace outstep::optim
