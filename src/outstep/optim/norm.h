#pragma once

#include <array>
#include <cstdint>

#include "outstep/base/torch.h"

namespace outstep::optim {

// The squared Euclidean norm of a flat vector, summed so that it has the same bits however the vector is sharded.
//
// Blocks of kNormGrain elements (by flat index) are each summed in double, then added as fixed-point integers, whose sum
// does not depend on the order. Shards must begin at multiples of kNormGrain. The limbs may be summed over ranks
// (all_reduce of 4 int64) before to_double.
inline constexpr int64_t kNormGrain = 256;

struct ExactSum {
  // 128-bit fixed point with 2^-80 resolution, in four 32-bit limbs held in int64, so that many can be added lane by lane.
  std::array<int64_t, 4> limbs{};
  // A sum of squares above 2^46, an infinity or a NaN is remembered here and makes to_double() infinite.
  int64_t num_overflows = 0;

  void add(double value);
  void add(const ExactSum& other);
  double to_double() const;
};

ExactSum squared_norm(const at::Tensor& values);  // [n] float32, contiguous, on the CPU or elsewhere

// min(1, max_norm / norm), 1 when max_norm is 0 (no clipping). As torch's clip_grad_norm_, 1e-6 is added to the norm.
double clip_factor(double norm, double max_norm);

}  // namespace outstep::optim
