#include "outstep/nn/kernels/cross_entropy.h"

#include <cmath>

#include "outstep/base/errors.h"
#include "outstep/nn/kernels/fused.h"
#include "outstep/nn/kernels/simd.h"

// N rows, K classes. With L = log Σ e^x and smoothing s, a row of class c adds (1 - s)(L - x_c) + s
// (L - mean x).

namespace outstep::nn::kernels {
namespace {

using simd::kLanes;
using simd::Lanes;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <typename T>
struct Forward {
  // losses [rows] and log_sums [rows] are written.
  template <simd::Level>
  OUTSTEP_INLINE static void run(const T* logits, const int64_t* classes, float* losses,
                                 float* log_sums, int64_t num_rows, int64_t size, float smoothing) {
    for (int64_t row = 0; row < num_rows; ++row, logits += size) {
      const int64_t whole = size / kLanes * kLanes, rest = size - whole;
      Lanes largest = simd::load_some(logits + whole, rest, -INFINITY);
      for (int64_t i = 0; i < whole; i += kLanes)
        largest = simd::max(simd::load(logits + i), largest);
      const float top = simd::max(largest);
      const Lanes tail = simd::load_some(logits + whole, rest, -INFINITY);
      Lanes powers = rest > 0 ? simd::exp(tail - top) : simd::broadcast(0);
      Lanes total = simd::load_some(logits + whole, rest);
      for (int64_t i = 0; i < whole; i += kLanes) {
        const Lanes x = simd::load(logits + i);
        powers = powers + simd::exp(x - top);
        total = total + x;
      }
      const float log_sum = top + std::log(simd::sum(powers));
      const float mean = simd::sum(total) / static_cast<float>(size);
      const auto hit = static_cast<float>(logits[classes[row]]);
      losses[row] = (1 - smoothing) * (log_sum - hit);
      // Else a logit of -inf, which hides a class, would make it NaN.
      if (smoothing > 0) losses[row] += smoothing * (log_sum - mean);
      log_sums[row] = log_sum;
    }
  }
};

template <typename T>
struct Backward {
  // grad = (softmax - smoothed target) · scale
  template <simd::Level>
  OUTSTEP_INLINE static void run(const T* logits, const int64_t* classes, const float* log_sums,
                                 T* grad, int64_t num_rows, int64_t size, float smoothing,
                                 float scale) {
    const float spread = smoothing / static_cast<float>(size);
    for (int64_t row = 0; row < num_rows; ++row, logits += size, grad += size) {
      int64_t i = 0;
      for (; i + kLanes <= size; i += kLanes) {
        simd::store(grad + i, (simd::exp(simd::load(logits + i) - log_sums[row]) - spread) * scale);
      }
      if (const int64_t rest = size - i; rest > 0) {
        const Lanes p = simd::exp(simd::load_some(logits + i, rest) - log_sums[row]);
        simd::store_some(grad + i, rest, (p - spread) * scale);
      }
      const float hit = std::exp(static_cast<float>(logits[classes[row]]) - log_sums[row]);
      grad[classes[row]] = static_cast<T>((hit - spread - (1 - smoothing)) * scale);
    }
  }
};

struct CrossEntropy : torch::autograd::Function<CrossEntropy> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits,
                            const at::Tensor& classes, double smoothing) {
    const int64_t num_rows = logits.size(0), size = logits.size(1);
    const at::Tensor losses = at::empty({num_rows}, at::kFloat),
                     log_sums = at::empty({num_rows}, at::kFloat);
    with_type(logits, [&]<typename T>(T*) {
      const T* x = logits.const_data_ptr<T>();
      const int64_t* c = classes.const_data_ptr<int64_t>();
      float *l = losses.mutable_data_ptr<float>(), *s = log_sums.mutable_data_ptr<float>();
      for_rows(num_rows, size, [&](int64_t begin, int64_t end) {
        simd::run<Forward<T>>(x + begin * size, c + begin, l + begin, s + begin, end - begin, size,
                              static_cast<float>(smoothing));
      });
    });
    context->save_for_backward({logits, classes, log_sums});
    context->saved_data["smoothing"] = smoothing;
    // One after another in double: the same bits for any number of threads.
    double total = 0;
    for (int64_t row = 0; row < num_rows; ++row) total += losses.const_data_ptr<float>()[row];
    return at::scalar_tensor(total / static_cast<double>(num_rows), at::kFloat);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &logits = saved[0], &classes = saved[1], &log_sums = saved[2];
    const int64_t num_rows = logits.size(0), size = logits.size(1);
    const auto smoothing = static_cast<float>(context->saved_data["smoothing"].toDouble());
    const float scale = grads[0].item<float>() / static_cast<float>(num_rows);
    const at::Tensor grad = at::empty_like(logits);
    with_type(logits, [&]<typename T>(T*) {
      const T* x = logits.const_data_ptr<T>();
      const int64_t* c = classes.const_data_ptr<int64_t>();
      const float* s = log_sums.const_data_ptr<float>();
      T* out = grad.mutable_data_ptr<T>();
      for_rows(num_rows, size, [&](int64_t begin, int64_t end) {
        simd::run<Backward<T>>(x + begin * size, c + begin, s + begin, out + begin * size,
                               end - begin, size, smoothing, scale);
      });
    });
    return {grad, {}, {}};
  }
};

bool are_in_range(const at::Tensor& classes, int64_t num_classes) {
  const int64_t* c = classes.const_data_ptr<int64_t>();
  return std::all_of(c, c + classes.numel(), [&](int64_t k) { return k >= 0 && k < num_classes; });
}

}  // namespace

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& classes, double smoothing) {
  if (!can_fuse({logits}) || !classes.is_cpu() || !classes.is_contiguous() ||
      classes.scalar_type() != at::kLong) {
    return cross_entropy_plain(logits, classes, smoothing);
  }
  check(classes.numel() == logits.size(0) && are_in_range(classes, logits.size(1)),
        "one class of those known a row");
  return CrossEntropy::apply(logits, classes, smoothing);
}

at::Tensor cross_entropy_plain(const at::Tensor& logits, const at::Tensor& classes,
                               double smoothing) {
  const at::Tensor x = logits.scalar_type() == at::kBFloat16 ? logits.to(at::kFloat) : logits;
  return at::cross_entropy_loss(x, classes, {}, at::Reduction::Mean, /*ignore_index=*/-100,
                                smoothing);
}

at::Tensor soft_cross_entropy(const at::Tensor& logits, const at::Tensor& probabilities,
                              double smoothing) {
  const at::Tensor x = logits.scalar_type() == at::kBFloat16 ? logits.to(at::kFloat) : logits;
  check(probabilities.dim() == 2 && probabilities.size(0) == x.size(0) &&
            probabilities.size(1) <= x.size(1),
        "probabilities of no other classes than there are logits");
  const at::Tensor log_p = x.log_softmax(1);  // [N, K]
  const at::Tensor known = log_p.narrow(1, 0, probabilities.size(1));
  const at::Tensor given = probabilities.to(x.scalar_type()).mul(known).sum(1);  // [N]
  return given.mul(smoothing - 1).sub(log_p.mean(1), smoothing).mean();
}

}  // namespace outstep::nn::kernels
