#pragma once

#include <span>

#include "outstep/base/torch.h"

// The arithmetic of collectives, on the calling thread alone: a communication thread that started a
// team of compute threads would take the cores it is there to leave alone.

namespace outstep::comm {

// out = ((terms[0] + terms[1]) + terms[2]) + …, element by element, in that order. Terms are
// contiguous, of out's size and of its dtype, or bfloat16 where out is float32. out may be one of
// the terms. Half-precision dtypes are summed in float32 and rounded once. One term is a
// conversion.
void sum_in_order(at::Tensor out, std::span<const at::Tensor> terms);

// out [bfloat16] = values [float32], to nearest even.
void round_to_bf16(at::Tensor out, const at::Tensor& values);

// Plain bytes; a no-op where both are the same memory.
void copy_bytes(at::Tensor to, const at::Tensor& from);

}  // namespace outstep::comm
