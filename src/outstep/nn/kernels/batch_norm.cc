#include "outstep/nn/kernels/batch_norm.h"

#include <cmath>

#include "outstep/base/parallel.h"
#include "outstep/nn/kernels/fused.h"
#include "outstep/nn/kernels/simd.h"

// R = B · H · W rows of C channels. With g the gradient that passes the ReLU and m, r the batch's
// mean and 1/deviation:
//   dbias = Σ g      dgain = r Σ g (x - m)      dx = gain r (g - Σ g / R - (x - m) r² Σ g (x - m) /
//   R)

namespace outstep::nn::kernels {
namespace {

using simd::kLanes;
using simd::Lanes;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int kWide = 4;  // vectors whose sums are kept in registers

// A table [num_rows, num_columns] whose columns are summed. Narrow rows are read several at a time
// as one row of kWide vectors (`fold` rows, 1 if they do not fit), whose sums are added at the end:
// else each would wait for the one before.
struct Table {
  int64_t num_rows, num_columns;
  int64_t fold() const {
    const int64_t wide = kWide * kLanes;
    return num_columns < wide && wide % num_columns == 0 ? wide / num_columns : 1;
  }
};

// Calls step<wide>(begin_row, end_row, row_stride, column, sums) so as to cover the table, sums
// [kNumSums][wide] being lanes in registers, and adds them to out [kNumSums, num_columns].
template <int kNumSums, typename Step>
OUTSTEP_INLINE void sum_columns(Table table, float* out, const Step& step) {
  const int64_t columns = table.num_columns, fold = table.fold();
  int64_t begin = 0;
  if (fold > 1) {
    const int64_t num_folded = table.num_rows / fold;
    Lanes sums[kNumSums][kWide] = {};
    step.template run<kWide>(0, num_folded, fold * columns, 0, sums);
    for (int s = 0; s < kNumSums; ++s) {
      for (int w = 0; w < kWide; ++w) {
        float* to = out + s * columns + w * kLanes % columns;
        simd::store(to, simd::load(to) + sums[s][w]);
      }
    }
    begin = num_folded * fold;
  }
  int64_t column = 0;
  for (; fold == 1 && column + kWide * kLanes <= columns; column += kWide * kLanes) {
    Lanes sums[kNumSums][kWide] = {};
    step.template run<kWide>(begin, table.num_rows, columns, column, sums);
    for (int s = 0; s < kNumSums; ++s) {
      for (int w = 0; w < kWide; ++w) {
        float* to = out + s * columns + column + w * kLanes;
        simd::store(to, simd::load(to) + sums[s][w]);
      }
    }
  }
  for (; column < columns; column += kLanes) {
    Lanes sums[kNumSums][1] = {};
    step.template run<1>(begin, table.num_rows, columns, column, sums);
    for (int s = 0; s < kNumSums; ++s) {
      float* to = out + s * columns + column;
      simd::store(to, simd::load(to) + sums[s][0]);
    }
  }
}

// Σ d and Σ d² of d = x - shift.
template <typename T>
struct MomentStep {
  const T* x;
  const float* shift;  // [kWide · kLanes] or more: repeated where rows are folded

  template <int wide>
  OUTSTEP_INLINE void run(int64_t begin, int64_t end, int64_t stride, int64_t column,
                          Lanes (&sums)[2][wide]) const {
    for (int64_t row = begin; row < end; ++row) {
#pragma GCC unroll 4
      for (int w = 0; w < wide; ++w) {
        const int64_t i = column + w * kLanes;
        const Lanes d = simd::load(x + row * stride + i) - simd::load(shift + i);
        sums[0][w] = sums[0][w] + d;
        sums[1][w] = sums[1][w] + d * d;
      }
    }
  }
};

// What lets a gradient pass: everything, what made x · scale + offset positive, or what made y
// positive. The second costs no more memory traffic than the first, but does not know of a
// residual.
enum class Gate { open, recomputed, result };

template <Gate gate, typename T>
OUTSTEP_INLINE Lanes gated(Lanes grad, Lanes x, const T* y, int64_t at, const float* scale,
                           const float* offset) {
  if constexpr (gate == Gate::recomputed) {
    return simd::where_positive(x * simd::load(scale) + simd::load(offset), grad);
  } else if constexpr (gate == Gate::result) {
    return simd::where_positive(simd::load(y + at), grad);
  } else {
    return grad;
  }
}

// Σ g and Σ g (x - mean). y is read at Gate::result alone.
template <Gate gate, typename T>
struct GradientStep {
  const T *grad, *x, *y;
  const float *mean, *scale, *offset;  // repeated where rows are folded

  template <int wide>
  OUTSTEP_INLINE void run(int64_t begin, int64_t end, int64_t stride, int64_t column,
                          Lanes (&sums)[2][wide]) const {
    for (int64_t row = begin; row < end; ++row) {
#pragma GCC unroll 4
      for (int w = 0; w < wide; ++w) {
        const int64_t i = column + w * kLanes, at = row * stride + i;
        const Lanes value = simd::load(x + at);
        const Lanes g = gated<gate>(simd::load(grad + at), value, y, at, scale + i, offset + i);
        sums[0][w] = sums[0][w] + g;
        sums[1][w] = sums[1][w] + g * (value - simd::load(mean + i));
      }
    }
  }
};

template <typename Step>
struct SumColumns {
  template <simd::Level>
  OUTSTEP_INLINE static void run(Step step, Table table, float* out) {
    sum_columns<2>(table, out, step);
  }
};

// y = relu(x · scale + offset + residual); residual may be null.
template <typename T>
struct Apply {
  template <simd::Level>
  OUTSTEP_INLINE static void run(const T* x, const T* residual, const float* scale,
                                 const float* offset, T* y, Table table, bool relu) {
    const Lanes floor = simd::broadcast(relu ? 0 : -INFINITY);
    for (int64_t row = 0; row < table.num_rows; ++row) {
      for (int64_t i = 0; i < table.num_columns; i += kLanes) {
        Lanes value = simd::load(x + i) * simd::load(scale + i) + simd::load(offset + i);
        if (residual) value = value + simd::load(residual + i);
        simd::store(y + i, simd::max(value, floor));
      }
      x += table.num_columns, y += table.num_columns;
      if (residual) residual += table.num_columns;
    }
  }
};

// Rows [C] that say how a gradient goes back: through the gate of scale and offset, then
// grad_x = g · scale - x · slope + shift.
struct Coefficients {
  const float *scale, *offset, *slope, *shift;
};

// g itself goes to grad_residual where that is not null.
template <Gate gate, typename T>
struct ApplyBackward {
  template <simd::Level>
  OUTSTEP_INLINE static void run(const T* grad, const T* x, const T* y, Coefficients k, T* grad_x,
                                 T* grad_residual, Table table) {
    for (int64_t row = 0; row < table.num_rows; ++row) {
      for (int64_t i = 0; i < table.num_columns; i += kLanes) {
        const int64_t at = row * table.num_columns + i;
        const Lanes value = simd::load(x + at);
        const Lanes g = gated<gate>(simd::load(grad + at), value, y, at, k.scale + i, k.offset + i);
        if (grad_residual) simd::store(grad_residual + at, g);
        simd::store(grad_x + at, g * simd::load(k.scale + i) - value * simd::load(k.slope + i) +
                                     simd::load(k.shift + i));
      }
    }
  }
};

Table table_of(const at::Tensor& x) { return {x.numel() / x.size(1), x.size(1)}; }

// Repeats [C] so that it covers a folded row.
std::vector<float> repeated(const float* values, const Table& table) {
  std::vector<float> result;
  for (int64_t i = 0; i < table.fold(); ++i)
    result.insert(result.end(), values, values + table.num_columns);
  return result;
}

struct Moments {
  at::Tensor mean, var;  // [C] float32; var is Σ (x - mean)² / R
};

// Each chunk sums differences to its own first row, which do not cancel; chunks are then joined in
// double (Chan 1979).
template <typename T>
Moments moments_of(const T* x, const Table& table) {
  const int64_t columns = table.num_columns, chunk_rows = rows_per_chunk(columns);
  const int64_t num_chunks = (table.num_rows + chunk_rows - 1) / chunk_rows;
  const at::Tensor partial = at::zeros({num_chunks, 2, columns}, at::kFloat);
  float* sums = partial.mutable_data_ptr<float>();
  parallel_for(num_chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const T* first = x + chunk * chunk_rows * columns;
      const Table part{std::min(chunk_rows, table.num_rows - chunk * chunk_rows), columns};
      const std::vector<float> row(first, first + columns);
      const std::vector<float> shift = repeated(row.data(), table);
      simd::run<SumColumns<MomentStep<T>>>(MomentStep<T>{first, shift.data()}, part,
                                           sums + chunk * 2 * columns);
    }
  });
  const Moments result{at::empty({columns}, at::kFloat), at::empty({columns}, at::kFloat)};
  for (int64_t c = 0; c < columns; ++c) {
    double count = 0, mean = 0, squares = 0;
    for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
      const auto n = static_cast<double>(std::min(chunk_rows, table.num_rows - chunk * chunk_rows));
      const double sum = sums[chunk * 2 * columns + c],
                   square = sums[(chunk * 2 + 1) * columns + c];
      const double distance =
          static_cast<double>(x[chunk * chunk_rows * columns + c]) + sum / n - mean;
      squares += square - sum * sum / n + distance * distance * count * n / (count + n);
      mean += distance * n / (count + n);
      count += n;
    }
    result.mean.mutable_data_ptr<float>()[c] = static_cast<float>(mean);
    const double var = squares < 0 ? 0 : squares / count;  // rounding; a NaN stays
    result.var.mutable_data_ptr<float>()[c] = static_cast<float>(var);
  }
  return result;
}

template <typename T>
const T* pointer_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

struct Normed {
  at::Tensor y;
  at::Tensor affine;      // [2, C]: y = x · affine[0] + affine[1], before residual and ReLU
  at::Tensor mean, rstd;  // [C]
};

void move_running(const BatchNormOptions& options, const Moments& moments, int64_t num_rows) {
  if (!options.running_mean.defined()) return;
  const double unbiased =
      static_cast<double>(num_rows) / static_cast<double>(std::max<int64_t>(1, num_rows - 1));
  at::Tensor(options.running_mean).mul_(1 - options.momentum).add_(moments.mean, options.momentum);
  at::Tensor(options.running_var)
      .mul_(1 - options.momentum)
      .add_(moments.var, options.momentum * unbiased);
}

template <typename T>
Normed normalise(const at::Tensor& x, const BatchNormOptions& options) {
  const Table table = table_of(x);
  const T* in = x.const_data_ptr<T>();
  const Moments moments = moments_of(in, table);
  move_running(options, moments, table.num_rows);
  const at::Tensor rstd = moments.var.add(options.epsilon).rsqrt_();
  const at::Tensor scale = options.gain.detach() * rstd;
  const Normed result{.y = at::empty_like(x),
                      .affine = at::stack({scale, options.bias.detach() - moments.mean * scale}),
                      .mean = moments.mean,
                      .rstd = rstd};
  const float* k = result.affine.const_data_ptr<float>();
  const T* residual = pointer_or_null<T>(options.residual);
  T* out = result.y.mutable_data_ptr<T>();
  for_rows(table.num_rows, table.num_columns, [&](int64_t begin, int64_t end) {
    const int64_t at = begin * table.num_columns;
    simd::run<Apply<T>>(in + at, residual ? residual + at : residual, k, k + table.num_columns,
                        out + at, Table{end - begin, table.num_columns}, options.relu);
  });
  return result;
}

struct Grads {
  at::Tensor x, residual;  // as x; residual is undefined where there is none
  at::Tensor gain, bias;   // [C]
};

template <Gate gate, typename T>
Grads normalise_backward(const at::Tensor& grad, const at::Tensor& x, const Normed& normed,
                         bool has_residual) {
  const Table table = table_of(x);
  const int64_t columns = table.num_columns;
  const T *g = grad.const_data_ptr<T>(), *in = x.const_data_ptr<T>(),
          *y = pointer_or_null<T>(normed.y);
  const float* affine = normed.affine.const_data_ptr<float>();
  const std::vector<float> means = repeated(normed.mean.const_data_ptr<float>(), table);
  const std::vector<float> scales = repeated(affine, table),
                           offsets = repeated(affine + columns, table);
  const at::Tensor sums =
      sum_over_rows(table.num_rows, 2, columns, [&](int64_t begin, int64_t end, float* to) {
        const int64_t at = begin * columns;
        const GradientStep<gate, T> step{g + at,       in + at,       y ? y + at : y,
                                         means.data(), scales.data(), offsets.data()};
        simd::run<SumColumns<GradientStep<gate, T>>>(step, Table{end - begin, columns}, to);
      });
  Grads grads{
      .x = at::empty_like(x), .residual = {}, .gain = sums[1] * normed.rstd, .bias = sums[0]};
  if (has_residual) grads.residual = at::empty_like(x);
  const at::Tensor slope = normed.affine[0] * normed.rstd * normed.rstd * sums[1] / table.num_rows;
  const at::Tensor shift = slope * normed.mean - normed.affine[0] * sums[0] / table.num_rows;
  const Coefficients k{affine, affine + columns, slope.const_data_ptr<float>(),
                       shift.const_data_ptr<float>()};
  T* to = grads.x.mutable_data_ptr<T>();
  T* to_residual = has_residual ? grads.residual.mutable_data_ptr<T>() : nullptr;
  for_rows(table.num_rows, columns, [&](int64_t begin, int64_t end) {
    const int64_t at = begin * columns;
    simd::run<ApplyBackward<gate, T>>(g + at, in + at, y ? y + at : y, k, to + at,
                                      to_residual ? to_residual + at : to_residual,
                                      Table{end - begin, columns});
  });
  return grads;
}

struct BatchNorm : torch::autograd::Function<BatchNorm> {
  // Tensors that get gradients are arguments of their own; options holds the same ones.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& /*gain*/, const at::Tensor& /*bias*/,
                            const std::optional<at::Tensor>& residual,
                            const BatchNormOptions& options) {
    Normed normed;
    with_type(x, [&]<typename T>(T*) { normed = normalise<T>(x, options); });
    context->save_for_backward(
        {x, residual ? normed.y : at::Tensor(), normed.affine, normed.mean, normed.rstd});
    context->saved_data["relu"] = options.relu;
    context->saved_data["has_residual"] = residual.has_value();
    return normed.y;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const Normed normed{.y = saved[1], .affine = saved[2], .mean = saved[3], .rstd = saved[4]};
    const bool relu = context->saved_data["relu"].toBool(),
               adds = context->saved_data["has_residual"].toBool();
    const at::Tensor grad = grads[0].to(x.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
    Grads result;
    with_type(x, [&]<typename T>(T*) {
      result = !relu  ? normalise_backward<Gate::open, T>(grad, x, normed, adds)
               : adds ? normalise_backward<Gate::result, T>(grad, x, normed, adds)
                      : normalise_backward<Gate::recomputed, T>(grad, x, normed, adds);
    });
    return {result.x, result.gain, result.bias, result.residual, {}};
  }
};

bool is_channels_last(const at::Tensor& x) {
  const bool has_type = x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
  return x.is_cpu() && has_type && x.dim() == 4 &&
         x.is_contiguous(at::MemoryFormat::ChannelsLast) && x.numel() > 0;
}

}  // namespace

at::Tensor batch_norm(const at::Tensor& x, const BatchNormOptions& options) {
  const at::Tensor& residual = options.residual;
  const bool fits = is_channels_last(x) && x.size(1) % kLanes == 0 &&
                    can_fuse({options.gain, options.bias}) &&
                    (!residual.defined() ||
                     (is_channels_last(residual) && residual.scalar_type() == x.scalar_type() &&
                      residual.sizes() == x.sizes() && options.relu));
  if (!fits) return batch_norm_plain(x, options);
  const std::optional<at::Tensor> addend =
      residual.defined() ? std::optional(residual) : std::nullopt;
  return BatchNorm::apply(x, options.gain, options.bias, addend, options);
}

at::Tensor batch_norm_plain(const at::Tensor& x, const BatchNormOptions& options) {
  at::Tensor y =
      at::batch_norm(x, options.gain, options.bias, options.running_mean, options.running_var,
                     /*training=*/true, options.momentum, options.epsilon, /*cudnn_enabled=*/true);
  if (options.residual.defined()) y = y.add(options.residual);
  return options.relu ? at::relu(y) : y;
}

}  // namespace outstep::nn::kernels
