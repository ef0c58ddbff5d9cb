#include "outstep/nn/kernels/bias_gelu.h"

#include "outstep/nn/kernels/fused.h"
#include "outstep/nn/kernels/simd.h"

// N rows, C columns. With u = sqrt(2/pi) (x + 0.044715 x³) and s = 1/(1 + e^(-2u)):
//   gelu(x) = x/2 (1 + tanh u) = x s          gelu'(x) = s + x s (1 - s) · 2 du/dx

namespace outstep::nn::kernels {
namespace {

using simd::Lanes;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr float kTwiceRoot = 1.5957691216057308f;  // 2 sqrt(2/pi)
constexpr float kCubic = 0.044715f;

OUTSTEP_INLINE Lanes gate(Lanes x) {
  const Lanes minus_2u = x * (x * x * (-kTwiceRoot * kCubic) - kTwiceRoot);
  return simd::broadcast(1) / (simd::exp(minus_2u) + 1.0f);
}

OUTSTEP_INLINE Lanes slope(Lanes x) {
  const Lanes s = gate(x);
  const Lanes twice_du = x * x * (3 * kTwiceRoot * kCubic) + kTwiceRoot;
  return s + x * s * (simd::broadcast(1) - s) * twice_du;
}

template <typename T>
struct Forward {
  template <simd::Level>
  OUTSTEP_INLINE static void run(const T* x, const float* bias, T* y, int64_t num_rows,
                                 int64_t num_columns) {
    for (int64_t row = 0; row < num_rows; ++row, x += num_columns, y += num_columns) {
      int64_t i = 0;
      for (; i + simd::kLanes <= num_columns; i += simd::kLanes) {
        const Lanes biased = simd::load(x + i) + simd::load(bias + i);
        simd::store(y + i, biased * gate(biased));
      }
      if (const int64_t rest = num_columns - i; rest > 0) {
        const Lanes biased = simd::load_some(x + i, rest) + simd::load_some(bias + i, rest);
        simd::store_some(y + i, rest, biased * gate(biased));
      }
    }
  }
};

// grad_x is written; sums [C] gain what the rows add to the bias's gradient.
template <typename T>
struct Backward {
  template <simd::Level>
  OUTSTEP_INLINE static void run(const T* grad, const T* x, const float* bias, T* grad_x,
                                 float* sums, int64_t num_rows, int64_t num_columns) {
    for (int64_t row = 0; row < num_rows;
         ++row, x += num_columns, grad += num_columns, grad_x += num_columns) {
      int64_t i = 0;
      for (; i + simd::kLanes <= num_columns; i += simd::kLanes) {
        const Lanes g = simd::load(grad + i) * slope(simd::load(x + i) + simd::load(bias + i));
        simd::store(grad_x + i, g);
        simd::store(sums + i, simd::load(sums + i) + g);
      }
      if (const int64_t rest = num_columns - i; rest > 0) {
        const Lanes biased = simd::load_some(x + i, rest) + simd::load_some(bias + i, rest);
        const Lanes g = simd::load_some(grad + i, rest) * slope(biased);
        simd::store_some(grad_x + i, rest, g);
        simd::store_some(sums + i, rest, simd::load_some(sums + i, rest) + g);
      }
    }
  }
};

struct BiasGelu : torch::autograd::Function<BiasGelu> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& bias) {
    context->save_for_backward({x, bias});
    const int64_t num_columns = bias.numel(), num_rows = x.numel() / num_columns;
    at::Tensor y = at::empty_like(x);
    with_type(x, [&]<typename T>(T*) {
      const T* in = x.const_data_ptr<T>();
      T* out = y.mutable_data_ptr<T>();
      const float* b = bias.const_data_ptr<float>();
      for_rows(num_rows, num_columns, [&](int64_t begin, int64_t end) {
        simd::run<Forward<T>>(in + begin * num_columns, b, out + begin * num_columns, end - begin,
                              num_columns);
      });
    });
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& bias = saved[1];
    const int64_t num_columns = bias.numel(), num_rows = x.numel() / num_columns;
    const at::Tensor grad = grads[0].to(x.scalar_type()).contiguous();
    at::Tensor grad_x = at::empty_like(x), grad_bias;
    with_type(x, [&]<typename T>(T*) {
      const T* g = grad.const_data_ptr<T>();
      const T* in = x.const_data_ptr<T>();
      const float* b = bias.const_data_ptr<float>();
      T* out = grad_x.mutable_data_ptr<T>();
      grad_bias =
          sum_over_rows(num_rows, 1, num_columns, [&](int64_t begin, int64_t end, float* sums) {
            const int64_t offset = begin * num_columns;
            simd::run<Backward<T>>(g + offset, in + offset, b, out + offset, sums, end - begin,
                                   num_columns);
          });
    });
    return {grad_x, grad_bias.view(bias.sizes())};
  }
};

}  // namespace

at::Tensor bias_gelu(const at::Tensor& x, const at::Tensor& bias) {
  if (!can_fuse({x, bias}) || bias.scalar_type() != at::kFloat) return bias_gelu_plain(x, bias);
  return BiasGelu::apply(x, bias);
}

at::Tensor bias_gelu_plain(const at::Tensor& x, const at::Tensor& bias) {
  return at::gelu(x.add(bias.to(x.scalar_type())), "tanh");
}

}  // namespace outstep::nn::kernels
