#include "outstep/nn/kernels/layer_norm.h"

#include <cmath>

#include "outstep/nn/kernels/fused.h"
#include "outstep/nn/kernels/simd.h"

// N rows, C columns, C a multiple of 16. For each row: y = (x - mean) · rstd · gain + bias.

namespace outstep::nn::kernels {
namespace {

using simd::kLanes;
using simd::Lanes;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What autocast would cast the operands of a matrix product to.
at::ScalarType product_type() {
  return at::autocast::is_autocast_enabled(at::kCPU) ? at::autocast::get_autocast_dtype(at::kCPU)
                                                     : at::kFloat;
}

bool can_fuse_rows(const at::Tensor& x, const NormOptions& norm) {
  const at::ScalarType type = product_type();
  return can_fuse({x, norm.gain, norm.bias}) && x.scalar_type() == at::kFloat &&
         norm.gain.scalar_type() == at::kFloat && norm.gain.numel() % kLanes == 0 &&
         (type == at::kFloat || type == at::kBFloat16);
}

bool can_fuse_addend(const at::Tensor& x, const at::Tensor& addend, const at::Tensor& bias) {
  return can_fuse({x, addend, bias}) && x.scalar_type() == at::kFloat &&
         bias.scalar_type() == at::kFloat && x.sizes() == addend.sizes() &&
         bias.numel() % kLanes == 0;
}

OUTSTEP_INLINE Lanes mean_square_slope(Lanes grad, Lanes hat, float mean_grad,
                                       float mean_grad_hat) {
  return grad - mean_grad - hat * mean_grad_hat;
}

// Normalises `size` columns of a row that lies in x; stats gets {mean, rstd}.
template <typename Out>
OUTSTEP_INLINE void normalise_row(const float* x, const float* gain, const float* bias, Out* y,
                                  float* stats, int64_t size, float epsilon) {
  Lanes total = simd::broadcast(0), squares = simd::broadcast(0);
  for (int64_t i = 0; i < size; i += kLanes) total = total + simd::load(x + i);
  const float mean = simd::sum(total) / static_cast<float>(size);
  for (int64_t i = 0; i < size; i += kLanes) {
    const Lanes d = simd::load(x + i) - mean;
    squares = squares + d * d;
  }
  const float rstd = 1 / std::sqrt(simd::sum(squares) / static_cast<float>(size) + epsilon);
  for (int64_t i = 0; i < size; i += kLanes) {
    const Lanes hat = (simd::load(x + i) - mean) * rstd;
    simd::store(y + i, hat * simd::load(gain + i) + simd::load(bias + i));
  }
  stats[0] = mean;
  stats[1] = rstd;
}

// sum = x + (addend + bias)
template <typename In>
OUTSTEP_INLINE void add_row(const float* x, const In* addend, const float* bias, float* sum,
                            int64_t size) {
  for (int64_t i = 0; i < size; i += kLanes) {
    simd::store(sum + i, simd::load(x + i) + (simd::load(addend + i) + simd::load(bias + i)));
  }
}

template <typename Out>
struct NormForward {
  template <simd::Level>
  OUTSTEP_INLINE static void run(const float* x, const float* gain, const float* bias, Out* y,
                                 float* stats, int64_t num_rows, int64_t size, float epsilon) {
    for (int64_t row = 0; row < num_rows; ++row) {
      normalise_row(x + row * size, gain, bias, y + row * size, stats + 2 * row, size, epsilon);
    }
  }
};

template <typename In>
struct AddForward {
  template <simd::Level>
  OUTSTEP_INLINE static void run(const float* x, const In* addend, const float* bias, float* sum,
                                 int64_t num_rows, int64_t size) {
    for (int64_t row = 0; row < num_rows; ++row) {
      add_row(x + row * size, addend + row * size, bias, sum + row * size, size);
    }
  }
};

// grad_sum is the gradient that reaches the sum by other ways, or null. sums [3, C] gain the
// gradients of gain, bias and, where the sum had an addend, its bias.
template <typename Out>
struct NormBackward {
  template <simd::Level>
  OUTSTEP_INLINE static void run(const Out* grad, const float* grad_sum, const float* x,
                                 const float* gain, const float* stats, float* grad_x, float* sums,
                                 int64_t num_rows, int64_t size) {
    float* const sum_gain = sums;
    float* const sum_bias = sums + size;
    float* const sum_x = sums + 2 * size;
    const float share = 1 / static_cast<float>(size);
    for (int64_t row = 0; row < num_rows; ++row) {
      const float mean = stats[2 * row], rstd = stats[2 * row + 1];
      Lanes total = simd::broadcast(0), total_hat = simd::broadcast(0);
      for (int64_t i = 0; i < size; i += kLanes) {
        const Lanes g = simd::load(grad + i);
        const Lanes hat = (simd::load(x + i) - mean) * rstd;
        const Lanes scaled = g * simd::load(gain + i);
        total = total + scaled;
        total_hat = total_hat + scaled * hat;
        simd::store(sum_gain + i, simd::load(sum_gain + i) + g * hat);
        simd::store(sum_bias + i, simd::load(sum_bias + i) + g);
      }
      const float mean_grad = simd::sum(total) * share,
                  mean_grad_hat = simd::sum(total_hat) * share;
      for (int64_t i = 0; i < size; i += kLanes) {
        const Lanes hat = (simd::load(x + i) - mean) * rstd;
        const Lanes scaled = simd::load(grad + i) * simd::load(gain + i);
        Lanes result = mean_square_slope(scaled, hat, mean_grad, mean_grad_hat) * rstd;
        if (grad_sum) result = result + simd::load(grad_sum + i);
        simd::store(grad_x + i, result);
        simd::store(sum_x + i, simd::load(sum_x + i) + result);
      }
      grad += size, x += size, grad_x += size;
      if (grad_sum) grad_sum += size;
    }
  }
};

struct SumRows {
  template <simd::Level>
  OUTSTEP_INLINE static void run(const float* grad, float* sums, int64_t num_rows, int64_t size) {
    for (int64_t row = 0; row < num_rows; ++row, grad += size) {
      for (int64_t i = 0; i < size; i += kLanes) {
        simd::store(sums + i, simd::load(sums + i) + simd::load(grad + i));
      }
    }
  }
};

struct Normed {
  at::Tensor y, stats;  // stats [N, 2]: mean and rstd
};

Normed normalise(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& bias,
                 double epsilon) {
  const int64_t size = gain.numel(), num_rows = x.numel() / size;
  const at::Tensor y = at::empty(x.sizes(), x.options().dtype(product_type()));
  const at::Tensor stats = at::empty({num_rows, 2}, at::kFloat);
  with_type(y, [&]<typename Out>(Out*) {
    const float *in = x.const_data_ptr<float>(), *g = gain.const_data_ptr<float>(),
                *b = bias.const_data_ptr<float>();
    Out* out = y.mutable_data_ptr<Out>();
    float* s = stats.mutable_data_ptr<float>();
    for_rows(num_rows, size, [&](int64_t begin, int64_t end) {
      simd::run<NormForward<Out>>(in + begin * size, g, b, out + begin * size, s + 2 * begin,
                                  end - begin, size, static_cast<float>(epsilon));
    });
  });
  return {y, stats};
}

at::Tensor add_rows(const at::Tensor& x, const at::Tensor& addend, const at::Tensor& bias) {
  const int64_t size = bias.numel(), num_rows = x.numel() / size;
  const at::Tensor sum = at::empty_like(x);
  with_type(addend, [&]<typename In>(In*) {
    const float *in = x.const_data_ptr<float>(), *b = bias.const_data_ptr<float>();
    const In* a = addend.const_data_ptr<In>();
    float* out = sum.mutable_data_ptr<float>();
    for_rows(num_rows, size, [&](int64_t begin, int64_t end) {
      simd::run<AddForward<In>>(in + begin * size, a + begin * size, b, out + begin * size,
                                end - begin, size);
    });
  });
  return sum;
}

struct NormGrads {
  at::Tensor x;     // [N, C]
  at::Tensor sums;  // [3, C]: of gain, bias and addend bias
};

NormGrads normalise_backward(const at::Tensor& grad, const at::Tensor& grad_sum,
                             const at::Tensor& x, const at::Tensor& gain, const at::Tensor& stats) {
  const int64_t size = gain.numel(), num_rows = x.numel() / size;
  const at::Tensor grad_y = grad.contiguous();
  const at::Tensor other = grad_sum.defined() ? grad_sum.contiguous() : grad_sum;
  NormGrads result{.x = at::empty_like(x), .sums = {}};
  with_type(grad_y, [&]<typename Out>(Out*) {
    const Out* g = grad_y.const_data_ptr<Out>();
    const float* o = other.defined() ? other.const_data_ptr<float>() : nullptr;
    const float *in = x.const_data_ptr<float>(), *w = gain.const_data_ptr<float>();
    const float* s = stats.const_data_ptr<float>();
    float* out = result.x.mutable_data_ptr<float>();
    result.sums = sum_over_rows(num_rows, 3, size, [&](int64_t begin, int64_t end, float* sums) {
      const int64_t offset = begin * size;
      simd::run<NormBackward<Out>>(g + offset, o ? o + offset : nullptr, in + offset, w,
                                   s + 2 * begin, out + offset, sums, end - begin, size);
    });
  });
  return result;
}

struct LayerNorm : torch::autograd::Function<LayerNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& gain,
                            const at::Tensor& bias, double epsilon) {
    const Normed normed = normalise(x, gain, bias, epsilon);
    context->save_for_backward({x, gain, normed.stats});
    return normed.y;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const NormGrads result = normalise_backward(grads[0], {}, saved[0], saved[1], saved[2]);
    return {result.x, result.sums[0], result.sums[1], {}};
  }
};

struct AddLayerNorm : torch::autograd::Function<AddLayerNorm> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x,
                               const at::Tensor& addend, const at::Tensor& addend_bias,
                               const at::Tensor& gain, const at::Tensor& bias, double epsilon) {
    const at::Tensor sum = add_rows(x, addend, addend_bias);
    const Normed normed = normalise(sum, gain, bias, epsilon);
    context->save_for_backward({sum, gain, normed.stats});
    context->saved_data["addend_type"] = static_cast<int64_t>(addend.scalar_type());
    return {sum, normed.y};
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto addend_type =
        static_cast<at::ScalarType>(context->saved_data["addend_type"].toInt());
    const NormGrads result = normalise_backward(grads[1], grads[0], saved[0], saved[1], saved[2]);
    return {result.x, result.x.to(addend_type), result.sums[2], result.sums[0], result.sums[1], {}};
  }
};

struct AddBiased : torch::autograd::Function<AddBiased> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& addend,
                            const at::Tensor& bias) {
    context->saved_data["addend_type"] = static_cast<int64_t>(addend.scalar_type());
    context->saved_data["size"] = bias.numel();
    return add_rows(x, addend, bias);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const int64_t size = context->saved_data["size"].toInt();
    const auto addend_type =
        static_cast<at::ScalarType>(context->saved_data["addend_type"].toInt());
    const at::Tensor grad = grads[0].contiguous();
    const float* g = grad.const_data_ptr<float>();
    const at::Tensor grad_bias =
        sum_over_rows(grad.numel() / size, 1, size, [&](int64_t begin, int64_t end, float* sums) {
          simd::run<SumRows>(g + begin * size, sums, end - begin, size);
        });
    return {grad, grad.to(addend_type), grad_bias[0]};
  }
};

}  // namespace

at::Tensor layer_norm(const at::Tensor& x, const NormOptions& norm) {
  if (!can_fuse_rows(x, norm)) return layer_norm_plain(x, norm);
  return LayerNorm::apply(x, norm.gain, norm.bias, norm.epsilon);
}

at::Tensor layer_norm_plain(const at::Tensor& x, const NormOptions& norm) {
  return at::layer_norm(x, norm.gain.sizes(), norm.gain, norm.bias, norm.epsilon);
}

AddedNorm add_layer_norm(const at::Tensor& x, const at::Tensor& addend,
                         const at::Tensor& addend_bias, const NormOptions& norm) {
  if (!can_fuse_rows(x, norm) || !can_fuse_addend(x, addend, addend_bias)) {
    return add_layer_norm_plain(x, addend, addend_bias, norm);
  }
  const variable_list both =
      AddLayerNorm::apply(x, addend, addend_bias, norm.gain, norm.bias, norm.epsilon);
  return {both[0], both[1]};
}

AddedNorm add_layer_norm_plain(const at::Tensor& x, const at::Tensor& addend,
                               const at::Tensor& addend_bias, const NormOptions& norm) {
  const at::Tensor sum = add_biased_plain(x, addend, addend_bias);
  return {sum, layer_norm_plain(sum, norm)};
}

at::Tensor add_biased(const at::Tensor& x, const at::Tensor& addend, const at::Tensor& bias) {
  if (!can_fuse_addend(x, addend, bias)) return add_biased_plain(x, addend, bias);
  return AddBiased::apply(x, addend, bias);
}

at::Tensor add_biased_plain(const at::Tensor& x, const at::Tensor& addend, const at::Tensor& bias) {
  return x.add(addend.to(x.scalar_type()).add(bias));
}

}  // namespace outstep::nn::kernels
