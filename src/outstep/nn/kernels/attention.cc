#include "outstep/nn/kernels/attention.h"

#include <cmath>

#include "outstep/base/parallel.h"
#include "outstep/nn/kernels/fused.h"
#include "outstep/nn/kernels/small_gemm.h"

// B examples, T tokens, H heads, D channels a head (a multiple of 16), C = H · D. Tp is T rounded
// up to kBlock: matrices in scratch have Tp rows, those beyond T zero. For a head, with q already
// scaled:
//
//   S = q kᵀ        P = softmax of what its rows see        O = P v
//   dV = Pᵀ dO      dP = dO vᵀ      dS = P ∘ (dP - rowsum(P ∘ dP))      dq = dS k      dk = dSᵀ q
//
// Queries are taken kBlock at a time, whose rows of S fit the second cache.

namespace outstep::nn::kernels {
namespace {

using simd::kLanes;
using simd::Lanes;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kBlock = 32;  // a multiple of kLanes

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

struct Sizes {
  int64_t batch, length, heads, channels;  // B, T, H, D
  bool is_causal;
  int64_t width() const { return heads * channels; }
  int64_t padded() const { return round_up(length, kBlock); }
  int64_t matrix() const { return padded() * channels; }  // floats in a [Tp, D]
  // Columns of S that a block of queries has anything in, and that one query has.
  int64_t columns_of_block(int64_t first) const { return is_causal ? first + kBlock : padded(); }
  int64_t seen_by(int64_t query) const { return is_causal ? query + 1 : length; }
};

// Where one head's rows lie in a [B, T, columns] tensor.
template <typename T>
struct HeadRows {
  T* data;
  int64_t stride;
  int64_t num_rows;
  int64_t channels;
};

// to [Tp, D] = (rows + bias) · scale, zero beyond the last row. bias may be null.
template <typename T>
OUTSTEP_INLINE void pack(HeadRows<const T> rows, const float* bias, float scale, float* to,
                         int64_t num_padded) {
  for (int64_t t = 0; t < rows.num_rows; ++t) {
    for (int64_t d = 0; d < rows.channels; d += kLanes) {
      Lanes x = simd::load(rows.data + t * rows.stride + d);
      if (bias) x = x + simd::load(bias + d);
      simd::store(to + t * rows.channels + d, x * scale);
    }
  }
  std::memset(to + rows.num_rows * rows.channels, 0,
              static_cast<size_t>((num_padded - rows.num_rows) * rows.channels) * sizeof(float));
}

// rows = from [Tp, D]; sums [D], if not null, gain the columns.
template <typename T>
OUTSTEP_INLINE void unpack(const float* from, HeadRows<T> rows, float* sums) {
  for (int64_t t = 0; t < rows.num_rows; ++t) {
    for (int64_t d = 0; d < rows.channels; d += kLanes) {
      const Lanes x = simd::load(from + t * rows.channels + d);
      simd::store(rows.data + t * rows.stride + d, x);
      if (sums) simd::store(sums + d, simd::load(sums + d) + x);
    }
  }
}

// to [D, Tp] from [Tp, D]
OUTSTEP_INLINE void transpose_matrix(const float* from, float* to, int64_t num_padded,
                                     int64_t channels) {
  for (int64_t t = 0; t < num_padded; t += kLanes) {
    for (int64_t d = 0; d < channels; d += kLanes) {
      Lanes tile[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) tile[i] = simd::load(from + (t + i) * channels + d);
      simd::transpose(tile);
      for (int64_t i = 0; i < kLanes; ++i) simd::store(to + (d + i) * num_padded + t, tile[i]);
    }
  }
}

// Turns the first num_valid of num_columns scores into probabilities, the others into 0; returns
// the log of their sum.
OUTSTEP_INLINE float softmax_row(float* scores, int64_t num_valid, int64_t num_columns) {
  const Lanes lowest = simd::broadcast(-INFINITY);
  Lanes largest = lowest, powers = simd::broadcast(0);
  for (int64_t j = 0; j < num_valid; j += kLanes) {
    largest = simd::max(simd::first_lanes(num_valid - j, simd::load(scores + j), lowest), largest);
  }
  const float top = simd::max(largest);
  for (int64_t j = 0; j < num_columns; j += kLanes) {
    const Lanes p = simd::first_lanes(num_valid - j, simd::exp(simd::load(scores + j) - top),
                                      simd::broadcast(0));
    simd::store(scores + j, p);
    powers = powers + p;
  }
  const float total = simd::sum(powers), scale = 1 / total;
  for (int64_t j = 0; j < num_valid; j += kLanes)
    simd::store(scores + j, simd::load(scores + j) * scale);
  return top + std::log(total);
}

// Of one query: probabilities from scores, then grads (dP) become dS.
OUTSTEP_INLINE void softmax_row_backward(float* scores, float* grads, float log_sum,
                                         int64_t num_valid, int64_t num_columns) {
  Lanes total = simd::broadcast(0);
  for (int64_t j = 0; j < num_columns; j += kLanes) {
    const Lanes p = simd::first_lanes(num_valid - j, simd::exp(simd::load(scores + j) - log_sum),
                                      simd::broadcast(0));
    simd::store(scores + j, p);
    total = total + p * simd::load(grads + j);
  }
  const float delta = simd::sum(total);
  for (int64_t j = 0; j < num_columns; j += kLanes) {
    simd::store(grads + j, simd::load(scores + j) * (simd::load(grads + j) - delta));
  }
}

template <typename T>
struct Forward {
  static int64_t scratch_size(const Sizes& s) {
    return 4 * s.matrix() + kBlock * (s.padded() + s.channels);
  }

  // out and log_sums [T] are written.
  template <simd::Level level>
  OUTSTEP_INLINE static void run(HeadRows<const T> q, HeadRows<const T> k, HeadRows<const T> v,
                                 const float* bias, HeadRows<T> out, float* log_sums, Sizes sizes,
                                 float* scratch) {
    const int64_t channels = sizes.channels, padded = sizes.padded(), width = sizes.width();
    float* const queries = scratch;
    float* const keys = queries + sizes.matrix();
    float* const keys_t = keys + sizes.matrix();
    float* const values = keys_t + sizes.matrix();
    float* const scores = values + sizes.matrix();  // [kBlock, Tp]
    float* const mixed = scores + kBlock * padded;  // [kBlock, D]
    pack(q, bias, 1 / std::sqrt(static_cast<float>(channels)), queries, padded);
    pack(k, bias + width, 1, keys, padded);
    pack(v, bias + 2 * width, 1, values, padded);
    transpose_matrix(keys, keys_t, padded, channels);
    for (int64_t first = 0; first < sizes.length; first += kBlock) {
      const int64_t num_columns = sizes.columns_of_block(first);
      const int64_t num_rows = std::min(kBlock, sizes.length - first);
      small_gemm<level>({queries + first * channels, channels, 1}, keys_t, padded, scores, padded,
                        kBlock, num_columns, channels, /*adds=*/false);
      for (int64_t i = 0; i < num_rows; ++i) {
        log_sums[first + i] =
            softmax_row(scores + i * padded, sizes.seen_by(first + i), num_columns);
      }
      small_gemm<level>({scores, padded, 1}, values, channels, mixed, channels, kBlock, channels,
                        num_columns,
                        /*adds=*/false);
      unpack<T>(mixed, {out.data + first * out.stride, out.stride, num_rows, channels}, nullptr);
    }
  }
};

template <typename T>
struct Backward {
  static int64_t scratch_size(const Sizes& s) { return 9 * s.matrix() + 2 * kBlock * s.padded(); }

  // grad_q, grad_k and grad_v are written; sums (at 0, C and 2C, as bias) gain the gradients of
  // bias.
  template <simd::Level level>
  OUTSTEP_INLINE static void run(HeadRows<const T> q, HeadRows<const T> k, HeadRows<const T> v,
                                 const float* bias, HeadRows<const T> grad_out,
                                 const float* log_sums, HeadRows<T> grad_q, HeadRows<T> grad_k,
                                 HeadRows<T> grad_v, float* sums, Sizes sizes, float* scratch) {
    const int64_t channels = sizes.channels, padded = sizes.padded(), width = sizes.width(),
                  size = sizes.matrix();
    const float scale = 1 / std::sqrt(static_cast<float>(channels));
    float* const queries = scratch;
    float* const keys = queries + size;
    float* const keys_t = keys + size;
    float* const values_t = keys_t + size;
    float* const grads = values_t + size;  // dO
    float* const query_grads = grads + size;
    float* const key_grads = query_grads + size;
    float* const value_grads = key_grads + size;
    float* const values = value_grads + size;
    float* const scores = values + size;                  // [kBlock, Tp]: S, then P
    float* const score_grads = scores + kBlock * padded;  // [kBlock, Tp]: dP, then dS
    pack(q, bias, scale, queries, padded);
    pack(k, bias + width, 1, keys, padded);
    pack(v, bias + 2 * width, 1, values, padded);
    pack<T>(grad_out, nullptr, 1, grads, padded);
    transpose_matrix(keys, keys_t, padded, channels);
    transpose_matrix(values, values_t, padded, channels);
    std::memset(key_grads, 0, static_cast<size_t>(2 * size) * sizeof(float));  // and value_grads
    for (int64_t first = 0; first < sizes.length; first += kBlock) {
      const int64_t num_columns = sizes.columns_of_block(first);
      const float* const block_queries = queries + first * channels;
      const float* const block_grads = grads + first * channels;
      small_gemm<level>({block_queries, channels, 1}, keys_t, padded, scores, padded, kBlock,
                        num_columns, channels,
                        /*adds=*/false);
      small_gemm<level>({block_grads, channels, 1}, values_t, padded, score_grads, padded, kBlock,
                        num_columns, channels, /*adds=*/false);
      for (int64_t i = 0; i < kBlock; ++i) {
        const bool is_query = first + i < sizes.length;
        softmax_row_backward(scores + i * padded, score_grads + i * padded,
                             is_query ? log_sums[first + i] : 0,
                             is_query ? sizes.seen_by(first + i) : 0, num_columns);
      }
      small_gemm<level>({score_grads, padded, 1}, keys, channels, query_grads + first * channels,
                        channels, kBlock, channels, num_columns, /*adds=*/false);
      small_gemm<level>({score_grads, 1, padded}, block_queries, channels, key_grads, channels,
                        num_columns, channels, kBlock, /*adds=*/true);
      small_gemm<level>({scores, 1, padded}, block_grads, channels, value_grads, channels,
                        num_columns, channels, kBlock, /*adds=*/true);
    }
    for (int64_t i = 0; i < size; i += kLanes)
      simd::store(query_grads + i, simd::load(query_grads + i) * scale);
    unpack(query_grads, grad_q, sums);
    unpack(key_grads, grad_k, sums + width);
    unpack(value_grads, grad_v, sums + 2 * width);
  }
};

// The rows of head h of example b in part p (0 q, 1 k, 2 v) of a tensor [B, T, num_parts · C].
template <typename T>
HeadRows<T> head_rows(T* data, const Sizes& s, int64_t num_parts, int64_t part, int64_t example,
                      int64_t head) {
  const int64_t stride = num_parts * s.width();
  return {data + example * s.length * stride + part * s.width() + head * s.channels, stride,
          s.length, s.channels};
}

// Calls body(example, head, scratch) for every head, each by one thread.
void for_heads(const Sizes& sizes, int64_t scratch_size,
               const std::function<void(int64_t example, int64_t head, float* scratch)>& body) {
  parallel_for(sizes.batch * sizes.heads, 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = at::empty({scratch_size}, at::kFloat);
    for (int64_t i = begin; i < end; ++i) {
      body(i / sizes.heads, i % sizes.heads, scratch.mutable_data_ptr<float>());
    }
  });
}

struct FusedAttention : torch::autograd::Function<FusedAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv, const at::Tensor& bias,
                            int64_t num_heads, bool is_causal) {
    const int64_t width = qkv.size(2) / 3;
    const Sizes s{qkv.size(0), qkv.size(1), num_heads, width / num_heads, is_causal};
    const at::Tensor out = at::empty({s.batch, s.length, width}, qkv.options());
    const at::Tensor log_sums = at::empty({s.batch, s.heads, s.length}, at::kFloat);
    with_type(qkv, [&]<typename T>(T*) {
      const T* x = qkv.const_data_ptr<T>();
      T* y = out.mutable_data_ptr<T>();
      const float* b = bias.const_data_ptr<float>();
      float* l = log_sums.mutable_data_ptr<float>();
      for_heads(s, Forward<T>::scratch_size(s), [&](int64_t example, int64_t head, float* scratch) {
        simd::run<Forward<T>>(head_rows(x, s, 3, 0, example, head),
                              head_rows(x, s, 3, 1, example, head),
                              head_rows(x, s, 3, 2, example, head), b + head * s.channels,
                              head_rows(y, s, 1, 0, example, head),
                              l + (example * s.heads + head) * s.length, s, scratch);
      });
    });
    context->save_for_backward({qkv, bias, log_sums});
    context->saved_data["num_heads"] = num_heads;
    context->saved_data["is_causal"] = is_causal;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &qkv = saved[0], &bias = saved[1], &log_sums = saved[2];
    const int64_t width = qkv.size(2) / 3, num_heads = context->saved_data["num_heads"].toInt();
    const Sizes s{qkv.size(0), qkv.size(1), num_heads, width / num_heads,
                  context->saved_data["is_causal"].toBool()};
    const at::Tensor grad_out = grads[0].to(qkv.scalar_type()).contiguous();
    const at::Tensor grad_qkv = at::empty_like(qkv),
                     sums = at::zeros({s.batch, 3 * width}, at::kFloat);
    with_type(qkv, [&]<typename T>(T*) {
      const T *x = qkv.const_data_ptr<T>(), *g = grad_out.const_data_ptr<T>();
      T* y = grad_qkv.mutable_data_ptr<T>();
      const float *b = bias.const_data_ptr<float>(), *l = log_sums.const_data_ptr<float>();
      float* total = sums.mutable_data_ptr<float>();
      for_heads(
          s, Backward<T>::scratch_size(s), [&](int64_t example, int64_t head, float* scratch) {
            simd::run<Backward<T>>(
                head_rows(x, s, 3, 0, example, head), head_rows(x, s, 3, 1, example, head),
                head_rows(x, s, 3, 2, example, head), b + head * s.channels,
                head_rows(g, s, 1, 0, example, head), l + (example * s.heads + head) * s.length,
                head_rows(y, s, 3, 0, example, head), head_rows(y, s, 3, 1, example, head),
                head_rows(y, s, 3, 2, example, head),
                total + example * 3 * width + head * s.channels, s, scratch);
          });
    });
    return {grad_qkv, sums.sum(0), {}, {}};
  }
};

}  // namespace

at::Tensor attention(const at::Tensor& qkv, const at::Tensor& bias, AttentionKind kind) {
  const bool fits =
      qkv.size(2) / 3 / kind.num_heads % kLanes == 0 && bias.scalar_type() == at::kFloat;
  if (!fits || !can_fuse({qkv, bias})) return attention_plain(qkv, bias, kind);
  return FusedAttention::apply(qkv, bias, kind.num_heads, kind.is_causal);
}

at::Tensor attention_plain(const at::Tensor& qkv, const at::Tensor& bias, AttentionKind kind) {
  const Heads heads = split_heads(qkv, bias, kind);
  if (is_differentiating_forward()) return join_heads(attention_by_parts(heads));
  return join_heads(at::scaled_dot_product_attention(heads.queries, heads.keys, heads.values, {},
                                                     0.0, heads.is_causal));
}

Heads split_heads(const at::Tensor& qkv, const at::Tensor& bias, AttentionKind kind) {
  const int64_t width = qkv.size(2) / 3;
  const at::Tensor parts =
      qkv.add(bias.to(qkv.scalar_type()))
          .view({qkv.size(0), qkv.size(1), 3, kind.num_heads, width / kind.num_heads});
  const std::vector<at::Tensor> heads = parts.permute({2, 0, 3, 1, 4}).unbind(0);
  return {heads[0], heads[1], heads[2], kind.is_causal};
}

at::Tensor join_heads(const at::Tensor& heads) { return heads.transpose(1, 2).flatten(2); }

at::Tensor attention_by_parts(const Heads& heads,
                              const std::function<at::Tensor(const at::Tensor&)>& on_weights) {
  const auto& [queries, keys, values, is_causal] = heads;
  const int64_t length = queries.size(-2);
  const double scale = 1 / std::sqrt(static_cast<double>(queries.size(-1)));
  at::Tensor scores = at::matmul(queries.mul(scale), keys.transpose(-2, -1));  // [B, H, T, T]
  if (scores.scalar_type() != at::kDouble) scores = scores.to(at::kFloat);
  if (is_causal) {
    const at::Tensor future =
        at::ones({length, length}, queries.options().dtype(at::kBool)).triu(1);
    scores = scores.masked_fill(future, -INFINITY);
  }
  at::Tensor weights = scores.softmax(-1);
  if (on_weights) weights = on_weights(weights);
  return at::matmul(weights.to(values.dtype()), values);
}

}  // namespace outstep::nn::kernels
