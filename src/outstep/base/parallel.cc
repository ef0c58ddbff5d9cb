#include "outstep/base/parallel.h"

#include <ATen/TensorIterator.h>

#include <algorithm>

#include "outstep/base/errors.h"
#include "outstep/base/torch.h"

namespace outstep {

void parallel_for(int64_t size, int64_t grain,
                  const std::function<void(int64_t begin, int64_t end)>& body) {
  check(grain > 0, "parallel_for needs a grain above 0");
  if (size <= 0) return;
  const int64_t num_grains = (size + grain - 1) / grain;
  if (num_grains == 1 || at::get_num_threads() == 1 || at::in_parallel_region()) {
    body(0, size);
    return;
  }
  // LibTorch's compiled iteration over one byte a grain: the address of a byte tells its number.
  at::Tensor bytes = at::empty({num_grains}, at::kByte);  // never read or written
  const char* const first = static_cast<const char*>(bytes.const_data_ptr());
  at::TensorIterator iterator = at::TensorIterator::nullary_op(bytes);
  iterator.for_each(
      [&](char** data, const int64_t* /*strides*/, int64_t count) {
        const int64_t begin = (data[0] - first) * grain;
        body(begin, std::min(begin + count * grain, size));
      },
      /*grain_size=*/1);
}

}  // namespace outstep
