#pragma once

#include <functional>
#include <initializer_list>

#include "outstep/base/torch.h"

// What the fused kernels of this folder share. Each is an operator with a formula for backward that
// runs over memory once where ATen's operators run several times. It has a plain form made of
// ATen's operators, which is its specification, is what its test compares with, and takes over
// whatever the fused form does not do: other devices, types and layouts, and forward-mode
// differentiation.

namespace outstep::nn::kernels {

// Whether all are on the CPU, contiguous, float32 or bfloat16, and no forward-mode differentiation
// is under way.
bool can_fuse(std::initializer_list<std::reference_wrapper<const at::Tensor>> tensors);
bool is_differentiating_forward();

// Rows are dealt out in chunks of a length that depends on their size alone, each summed by itself,
// and all added in order: sums over rows have the same bits for any number of threads.
int64_t rows_per_chunk(int64_t num_columns);

// Calls body(begin_row, end_row, sums) for every chunk, sums being [num_sums, num_columns] zeros of
// its own; returns the sums over all chunks, [num_sums, num_columns] float32.
at::Tensor sum_over_rows(int64_t num_rows, int64_t num_sums, int64_t num_columns,
                         const std::function<void(int64_t begin, int64_t end, float* sums)>& body);

// Calls body(begin_row, end_row) for pieces of [0, num_rows), in parallel where there is work
// enough.
void for_rows(int64_t num_rows, int64_t num_columns,
              const std::function<void(int64_t begin, int64_t end)>& body);

// Calls body with a null pointer of the tensor's element type, float or at::BFloat16.
template <typename Body>
void with_type(const at::Tensor& tensor, Body&& body) {
  if (tensor.scalar_type() == at::kBFloat16) {
    body(static_cast<at::BFloat16*>(nullptr));
  } else {
    body(static_cast<float*>(nullptr));
  }
}

}  // namespace outstep::nn::kernels
