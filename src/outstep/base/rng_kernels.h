#pragma once

#include <cstdint>

#include "outstep/base/rng.h"

// The loops behind fill_normal and fill_uniform, compiled for several vector instruction sets. All
// give the same bits: the logarithm, sine and cosine are polynomials of our own, where libm's last
// bit differs between processors. Included by rng.cc and its test only.

namespace outstep::rng {

enum class Distribution { normal, uniform };
enum class Kernels { baseline, avx2 };
Kernels best_kernels();  // the widest that this processor runs

// Values [first, first + count) of a key's stream, as offset + scale · value. first is a multiple
// of 4.
struct Values {
  Distribution distribution;
  RngKey key;
  int64_t first = 0;
  int64_t count = 0;
  double offset = 0;
  double scale = 1;
};
void write(Kernels kernels, const Values& values, float* out);
void write(Kernels kernels, const Values& values, double* out);

}  // namespace outstep::rng
