#pragma once

#include "outstep/nn/kernels/simd.h"

// Products of small matrices that lie in the caches, for kernels that do more with them than a
// library would.

namespace outstep::nn::kernels {

// A row-major matrix, read at a + row · row_stride + k · k_stride (swapped strides read it
// transposed).
struct Left {
  const float* data;
  int64_t row_stride;
  int64_t k_stride;
};

// kRows × (16 · kWide) of C (+)= A B, all sums in registers.
template <simd::Level level, int kRows, int kWide>
OUTSTEP_INLINE void gemm_tile(Left a, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                              int64_t num_k, bool adds) {
  simd::Lanes sums[kRows][kWide];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int w = 0; w < kWide; ++w) {
      sums[r][w] = adds ? simd::load(c + r * c_stride + w * simd::kLanes) : simd::broadcast(0);
    }
  }
  for (int64_t k = 0; k < num_k; ++k) {
    simd::Lanes row[kWide];
#pragma GCC unroll 4
    for (int w = 0; w < kWide; ++w) row[w] = simd::load(b + k * b_stride + w * simd::kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const simd::Lanes left = simd::broadcast(a.data[r * a.row_stride + k * a.k_stride]);
#pragma GCC unroll 4
      for (int w = 0; w < kWide; ++w)
        sums[r][w] = simd::multiply_add<level>(left, row[w], sums[r][w]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int w = 0; w < kWide; ++w) simd::store(c + r * c_stride + w * simd::kLanes, sums[r][w]);
  }
}

inline constexpr int64_t kTileRows = 4;

// All rows of a strip of 16 · kWide columns: the strip of B stays in the first cache.
template <simd::Level level, int kWide>
OUTSTEP_INLINE void gemm_strip(Left a, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                               int64_t num_rows, int64_t num_k, bool adds) {
  for (int64_t row = 0; row < num_rows; row += kTileRows) {
    const Left part = {a.data + row * a.row_stride, a.row_stride, a.k_stride};
    gemm_tile<level, kTileRows, kWide>(part, b, b_stride, c + row * c_stride, c_stride, num_k,
                                       adds);
  }
}

// C [num_rows, num_columns] (+)= A [num_rows, num_k] B [num_k, num_columns]. num_rows is a multiple
// of kTileRows, num_columns of 16. Each element is summed in the order of k, whatever the tile.
template <simd::Level level>
OUTSTEP_INLINE void small_gemm(Left a, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                               int64_t num_rows, int64_t num_columns, int64_t num_k, bool adds) {
  constexpr int kWide = level == simd::Level::avx512 ? 4 : 1;  // what the registers hold
  int64_t column = 0;
  for (; column + kWide * simd::kLanes <= num_columns; column += kWide * simd::kLanes) {
    gemm_strip<level, kWide>(a, b + column, b_stride, c + column, c_stride, num_rows, num_k, adds);
  }
  for (; column < num_columns; column += simd::kLanes) {
    gemm_strip<level, 1>(a, b + column, b_stride, c + column, c_stride, num_rows, num_k, adds);
  }
}

}  // namespace outstep::nn::kernels
