#include "outstep/optim/sgd.h"

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
  T weight_decay;
  T momentum;
  T lr;
  bool nesterov;
};
using Numbers = NumbersOf<float>;

// momentum_in and momentum_out are null without momentum; momentum_out is null in a tentative step.
struct Pointers {
  int64_t size;
  const float* gradient;
  const float* params_in;
  float* params_out;
  const float* momentum_in;
  float* momentum_out;
};

enum class Form { plain, momentum, nesterov };

template <Form kForm>
OUTSTEP_INLINE void update_lanes(const Numbers& numbers, const float* gradient,
                                 const float* params_in, float* params_out,
                                 const float* momentum_in, float* momentum_out) {
  F32x16 g, p;
  simd::load(g, gradient);
  simd::load(p, params_in);
  g = g * numbers.gradient_scale + p * numbers.weight_decay;
  if constexpr (kForm != Form::plain) {
    F32x16 b;
    simd::load(b, momentum_in);
    b = b * numbers.momentum + g;
    if (momentum_out != nullptr) simd::store(b, momentum_out);
    g = kForm == Form::nesterov ? g + b * numbers.momentum : b;
  }
  p = p - g * numbers.lr;
  simd::store(p, params_out);
}

template <Form kForm>
// Numbers and pointers by value: what is stored cannot change them, so they stay in registers.
OUTSTEP_INLINE void update_range(const Numbers numbers, const Pointers at) {
  const auto advance = [](auto* pointer, int64_t by) {
    return pointer == nullptr ? nullptr : pointer + by;
  };
  int64_t i = 0;
  for (; i + kLanes <= at.size; i += kLanes) {
    update_lanes<kForm>(numbers, at.gradient + i, at.params_in + i, at.params_out + i,
                        advance(at.momentum_in, i), advance(at.momentum_out, i));
  }
  if (i == at.size) return;
  // The rest, in lanes of its own: the same arithmetic as above.
  const size_t rest_bytes = static_cast<size_t>(at.size - i) * sizeof(float);
  float gradient[kLanes] = {}, params[kLanes] = {}, momentum[kLanes] = {};
  std::memcpy(gradient, at.gradient + i, rest_bytes);
  std::memcpy(params, at.params_in + i, rest_bytes);
  if (kForm != Form::plain) std::memcpy(momentum, at.momentum_in + i, rest_bytes);
  update_lanes<kForm>(numbers, gradient, params, params, momentum, momentum);
  std::memcpy(at.params_out + i, params, rest_bytes);
  if (kForm != Form::plain && at.momentum_out != nullptr) {
    std::memcpy(at.momentum_out + i, momentum, rest_bytes);
  }
}

OUTSTEP_INLINE void update_any(Form form, const Numbers& numbers, const Pointers& at) {
  switch (form) {
    case Form::plain:
      return update_range<Form::plain>(numbers, at);
    case Form::momentum:
      return update_range<Form::momentum>(numbers, at);
    case Form::nesterov:
      return update_range<Form::nesterov>(numbers, at);
  }
}
void update_baseline(Form form, const Numbers& numbers, const Pointers& at) {
  update_any(form, numbers, at);
}
OUTSTEP_TARGET_AVX2 void update_avx2(Form form, const Numbers& numbers, const Pointers& at) {
  update_any(form, numbers, at);
}
OUTSTEP_TARGET_AVX512 void update_avx512(Form form, const Numbers& numbers, const Pointers& at) {
  update_any(form, numbers, at);
}

}  // namespace

Sgd::Sgd(SgdOptions options, std::vector<Segment> segments, Kernels kernels)
    : ElementwiseOptimizer(
          "sgd",
          options.momentum > 0 ? std::vector<std::string>{"momentum"} : std::vector<std::string>{},
          std::move(segments), kernels),
      options_(options) {}

Sgd::Rule Sgd::rule(double gradient_scale, double lr, int64_t /*step*/) const {
  const bool has_momentum = options_.momentum > 0;
  const Form form = !has_momentum       ? Form::plain
                    : options_.nesterov ? Form::nesterov
                                        : Form::momentum;
  const Numbers numbers{.gradient_scale = static_cast<float>(gradient_scale),
                        .weight_decay = static_cast<float>(options_.weight_decay),
                        .momentum = static_cast<float>(options_.momentum),
                        .lr = static_cast<float>(lr),
                        .nesterov = options_.nesterov};
  const auto kernel = simd::pick(kernels(), update_baseline, update_avx2, update_avx512);
  const auto on_cpu = [=](const Piece& piece) {
    Numbers here = numbers;
    if (!piece.decays) here.weight_decay = 0;
    kernel(form, here,
           {.size = piece.size,
            .gradient = piece.gradient,
            .params_in = piece.params_in,
            .params_out = piece.params_out,
            .momentum_in = piece.state_in[0],
            .momentum_out = piece.state_out[0]});
  };
  const auto by_operators_with = [=](const auto& k, const TensorPiece& piece) {
    const auto weight_decay = piece.decays ? k.weight_decay : 0;
    at::Tensor change = piece.gradient * k.gradient_scale + piece.params_in * weight_decay;
    if (has_momentum) {
      const at::Tensor momentum = piece.state_in[0] * k.momentum + change;
      if (!piece.state_out.empty()) piece.state_out[0].copy_(momentum);
      change = k.nesterov ? change + momentum * k.momentum : momentum;
    }
    piece.params_out.copy_(piece.params_in - change * k.lr);
  };
  const NumbersOf<double> exact{.gradient_scale = gradient_scale,
                                .weight_decay = options_.weight_decay,
                                .momentum = options_.momentum,
                                .lr = lr,
                                .nesterov = options_.nesterov};
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
