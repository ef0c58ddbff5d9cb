#pragma once

#include <array>
#include <cstdint>

#include "outstep/base/torch.h"
#include "outstep/optim/kernels.h"

namespace outstep::optim {

// The squared Euclidean norm of a flat vector, summed so that it has the same bits however the
// vector is sharded.
//
// Blocks of kNormGrain elements (by flat index) are each summed in double, then added as
// fixed-point integers, whose sum does not depend on the order. Shards must begin at multiples of
// kNormGrain; if one does not, the norm is only right to rounding.
inline constexpr int64_t kNormGrain = 256;

// A sum of non-negative numbers, exact and hence independent of their order and grouping.
//
//   ExactSum sum = squared_norm(shard);
//   group.all_reduce(words, …);            // ranks may add to_words() as integers
//   double norm = std::sqrt(ExactSum::from_words(words).to_double());
//
// A plain value. It holds fixed point from 2^-320 to 2^320, wide enough for the square of every
// float32 number.
struct ExactSum {
  static constexpr int kNumLimbs =
      20;  // of 32 bits, each in an int64: many sums can be added lane by lane
  static constexpr int kLowestExponent = -320;  // limb 0 counts units of 2^-320
  static constexpr int kNumWords = kNumLimbs + 1;

  std::array<int64_t, kNumLimbs> limbs{};
  // Infinities, NaNs and numbers of 2^319 or more; any of them makes to_double() infinite.
  int64_t num_nonfinite = 0;

  void add(double value);  // not negative; what lies below 2^-320 is cut off
  void add(const ExactSum& other);
  double to_double() const;

  // [kNumWords] int64 on the CPU: limbs, then num_nonfinite. Up to 2^31 of them may be added
  // element by element.
  at::Tensor to_words() const;
  static ExactSum from_words(const at::Tensor& words);

 private:
  void carry();  // brings every limb below 2^32
};

// values [n] float32, contiguous (float64 is rounded to it first). The same bits on every device,
// for any number of threads and any kernels.
ExactSum squared_norm(const at::Tensor& values, Kernels kernels = best_kernels());

// min(1, max_norm / norm), 1 when max_norm is 0 (no clipping). As in torch's clip_grad_norm_, 1e-6
// is added to the norm.
double clip_factor(double norm, double max_norm);

}  // namespace outstep::optim
