#pragma once

#include <cstring>

#include "outstep/optim/kernels.h"

// Loops over float32 that are compiled for several vector instruction sets and chosen at run time,
// so that one program runs on every x86-64 processor at its full width. The arithmetic is IEEE's in
// all of them, and multiplications are never contracted with additions: the same bits everywhere.
// Included by the room's .cc files only.
//
//   OUTSTEP_INLINE void loop(…) { F32x16 x; load(x, in); …; store(x, out); }
//   void loop_baseline(…) { loop(…); }
//   OUTSTEP_TARGET_AVX2 void loop_avx2(…) { loop(…); }
//   OUTSTEP_TARGET_AVX512 void loop_avx512(…) { loop(…); }
//   simd::pick(kernels, loop_baseline, loop_avx2, loop_avx512)(…);

#define OUTSTEP_INLINE [[gnu::always_inline]] inline
#if defined(__x86_64__)
#define OUTSTEP_TARGET_AVX2 [[gnu::target("avx2")]]
#define OUTSTEP_TARGET_AVX512 [[gnu::target("avx512f,avx512dq,avx512vl")]]
#else
#define OUTSTEP_TARGET_AVX2
#define OUTSTEP_TARGET_AVX512
#endif

namespace outstep::optim::simd {

template <typename Function>
Function* pick(Kernels kernels, Function* baseline, Function* avx2, Function* avx512) {
  if (kernels == Kernels::avx512) return avx512;
  return kernels == Kernels::avx2 ? avx2 : baseline;
}

// 16 lanes in one, two or four registers. Passed by reference: by value its calling convention
// would differ between instruction sets.
inline constexpr int kLanes = 16;
using F32x16 = float __attribute__((vector_size(4 * kLanes)));

OUTSTEP_INLINE void load(F32x16& x, const float* from) { std::memcpy(&x, from, sizeof(x)); }
OUTSTEP_INLINE void store(const F32x16& x, float* to) { std::memcpy(to, &x, sizeof(x)); }
OUTSTEP_INLINE void replace_by_root(F32x16& x) {
#if defined(__clang__)
  x = __builtin_elementwise_sqrt(x);
#else  // g++ takes the roots one by one, unless it is told -fno-math-errno
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = __builtin_sqrtf(x[lane]);
#endif
}

}  // namespace outstep::optim::simd
