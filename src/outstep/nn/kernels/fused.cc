#include "outstep/nn/kernels/fused.h"

#include "outstep/base/parallel.h"
#include "outstep/nn/kernels/simd.h"

namespace outstep::nn::kernels {
namespace {

constexpr int64_t kElementsPerTask = 16384;  // less is not worth another thread
constexpr int64_t kElementsPerChunk =
    32768;  // fits the second cache, and makes chunks enough for many threads

struct AddInto {
  template <simd::Level>
  OUTSTEP_INLINE static void run(float* sums, const float* addends, int64_t size) {
    int64_t i = 0;
    for (; i + simd::kLanes <= size; i += simd::kLanes) {
      simd::store(sums + i, simd::load(sums + i) + simd::load(addends + i));
    }
    for (; i < size; ++i) sums[i] += addends[i];
  }
};

}  // namespace

bool is_differentiating_forward() {
  return torch::autograd::ForwardADLevel::try_get_by_idx(0) != nullptr;
}

bool can_fuse(std::initializer_list<std::reference_wrapper<const at::Tensor>> tensors) {
  if (is_differentiating_forward()) return false;
  for (const at::Tensor& tensor : tensors) {
    const bool has_type =
        tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16;
    if (!tensor.is_cpu() || !has_type || !tensor.is_contiguous() || tensor.numel() == 0)
      return false;
  }
  return true;
}

int64_t rows_per_chunk(int64_t num_columns) {
  return std::max<int64_t>(1, kElementsPerChunk / num_columns);
}

at::Tensor sum_over_rows(int64_t num_rows, int64_t num_sums, int64_t num_columns,
                         const std::function<void(int64_t begin, int64_t end, float* sums)>& body) {
  const int64_t chunk_rows = rows_per_chunk(num_columns);
  const int64_t num_chunks = (num_rows + chunk_rows - 1) / chunk_rows;
  const int64_t size = num_sums * num_columns;
  const at::Tensor partial = at::zeros({num_chunks, num_sums, num_columns}, at::kFloat);
  float* sums = partial.mutable_data_ptr<float>();
  parallel_for(num_chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      body(chunk * chunk_rows, std::min(num_rows, (chunk + 1) * chunk_rows), sums + chunk * size);
    }
  });
  for (int64_t chunk = 1; chunk < num_chunks; ++chunk) {
    simd::run<AddInto>(sums, sums + chunk * size, size);
  }
  return partial.select(0, 0);
}

void for_rows(int64_t num_rows, int64_t num_columns,
              const std::function<void(int64_t begin, int64_t end)>& body) {
  parallel_for(num_rows, std::max<int64_t>(1, kElementsPerTask / num_columns), body);
}

}  // namespace outstep::nn::kernels
