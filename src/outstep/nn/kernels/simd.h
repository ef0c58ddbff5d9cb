#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>

#include "outstep/base/torch.h"

// Sixteen lanes of float32, and loops over them that are compiled for several vector instruction
// sets and chosen at run time. The arithmetic is IEEE's in all of them and contracts a
// multiplication with an addition only where multiply_add says so: kernels without it have the same
// bits on every processor. A NaN in the data survives all of it, as in torch's operators: else a
// gradient that diverged would pass for a good one. Included by this folder's .cc files and
// kernels_testing.h only.
//
//   struct Doubling {                                    // a kernel: one static function, inlined
//   into each version
//     template <simd::Level level>
//     OUTSTEP_INLINE static void run(const float* in, float* out, int64_t size) { … load(in + i) …
//     }
//   };
//   simd::run<Doubling>(in, out, size);

#define OUTSTEP_INLINE [[gnu::always_inline]] inline
#if defined(__x86_64__)
#define OUTSTEP_TARGET_AVX2 [[gnu::target("avx2,fma")]]
#define OUTSTEP_TARGET_AVX512 [[gnu::target("fma,avx512f,avx512bw,avx512dq,avx512vl")]]
#else
#define OUTSTEP_TARGET_AVX2
#define OUTSTEP_TARGET_AVX512
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored \
    "-Wpsabi"  // nothing here is called across instruction sets: all is inlined
#endif

namespace outstep::nn::simd {

inline constexpr int64_t kLanes = 16;
using F32x16 = float __attribute__((vector_size(64)));
using I32x16 = int32_t __attribute__((vector_size(64)));
using U32x16 = uint32_t __attribute__((vector_size(64)));
using U16x16 = uint16_t __attribute__((vector_size(32)));

// A struct around the vector: bare vectors may not be passed by value between instruction sets.
struct Lanes {
  F32x16 v;
};

OUTSTEP_INLINE Lanes broadcast(float x) { return {F32x16{} + x}; }
OUTSTEP_INLINE Lanes operator+(Lanes a, Lanes b) { return {a.v + b.v}; }
OUTSTEP_INLINE Lanes operator-(Lanes a, Lanes b) { return {a.v - b.v}; }
OUTSTEP_INLINE Lanes operator*(Lanes a, Lanes b) { return {a.v * b.v}; }
OUTSTEP_INLINE Lanes operator/(Lanes a, Lanes b) { return {a.v / b.v}; }
OUTSTEP_INLINE Lanes operator+(Lanes a, float b) { return {a.v + b}; }
OUTSTEP_INLINE Lanes operator-(Lanes a, float b) { return {a.v - b}; }
OUTSTEP_INLINE Lanes operator*(Lanes a, float b) { return {a.v * b}; }
// One instruction each. A NaN in a stays, one in b is passed over: the data is a.
OUTSTEP_INLINE Lanes max(Lanes a, Lanes b) { return {b.v > a.v ? b.v : a.v}; }
OUTSTEP_INLINE Lanes min(Lanes a, Lanes b) { return {b.v < a.v ? b.v : a.v}; }
// 0 where condition <= 0, else value: a NaN lets it pass, as in torch's gradient of ReLU.
OUTSTEP_INLINE Lanes where_positive(Lanes condition, Lanes value) {
  return {condition.v <= 0 ? F32x16{} : value.v};
}

OUTSTEP_INLINE Lanes load(const float* from) {
  Lanes x;
  std::memcpy(&x.v, from, sizeof(x.v));
  return x;
}
OUTSTEP_INLINE void store(float* to, Lanes x) { std::memcpy(to, &x.v, sizeof(x.v)); }

OUTSTEP_INLINE Lanes load(const at::BFloat16* from) {
  U16x16 halves;
  std::memcpy(&halves, from, sizeof(halves));
  const U32x16 bits = __builtin_convertvector(halves, U32x16) << 16;
  Lanes x;
  std::memcpy(&x.v, &bits, sizeof(bits));
  return x;
}
// Rounds to nearest, ties to even, as torch does.
OUTSTEP_INLINE void store(at::BFloat16* to, Lanes x) {
  U32x16 bits;
  std::memcpy(&bits, &x.v, sizeof(bits));
  const U32x16 rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const U32x16 result = x.v == x.v ? rounded : U32x16{} + 0x7FC0u;
  const U16x16 halves = __builtin_convertvector(result, U16x16);
  std::memcpy(to, &halves, sizeof(halves));
}

// The first count < 16 lanes; the others are `fill`.
template <typename T>
OUTSTEP_INLINE Lanes load_some(const T* from, int64_t count, float fill = 0) {
  float lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = i < count ? static_cast<float>(from[i]) : fill;
  return load(lanes);
}
template <typename T>
OUTSTEP_INLINE void store_some(T* to, int64_t count, Lanes x) {
  float lanes[kLanes];
  store(lanes, x);
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(lanes[i]);
}

// The first count lanes of value, then other's.
OUTSTEP_INLINE Lanes first_lanes(int64_t count, Lanes value, Lanes other) {
  const I32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const auto limit = static_cast<int32_t>(count < 0 ? 0 : count > kLanes ? kLanes : count);
  return {lane < limit ? value.v : other.v};
}

// Sum and maximum over the lanes, halves first: always in the same order. The maximum may pass over
// a NaN: it is for e^(x - maximum), where x is one still.
OUTSTEP_INLINE float sum(Lanes x) {
  float lanes[kLanes];
  store(lanes, x);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}
OUTSTEP_INLINE float max(Lanes x) {
  float lanes[kLanes];
  store(lanes, x);
  float largest = lanes[0];
  for (int64_t i = 1; i < kLanes; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  return largest;
}

// e^x within 2 units in the last place; 0 up to -87.3, at most e^88, and NaN of a NaN.
OUTSTEP_INLINE Lanes exp(Lanes x) {
  constexpr float kLog2e = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;  // exact in 9 bits, so that n · kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRounder = 12582912.0f;  // 1.5 · 2^23: adding it rounds to a whole number
  const F32x16 clamped = min(x, broadcast(88.0f)).v;
  const F32x16 shifted = clamped * kLog2e + kRounder;
  const F32x16 n = shifted - kRounder;
  const F32x16 r = clamped - n * kLn2High - n * kLn2Low;  // |r| <= ln(2) / 2
  // The minimax polynomial of Cephes' expf.
  F32x16 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n: the lowest bits of `shifted` are n, and those above them are shifted out.
  U32x16 exponent;
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  exponent = (exponent + 127u) << 23;
  F32x16 power;
  std::memcpy(&power, &exponent, sizeof(power));
  return {clamped <= -87.3f ? F32x16{} : p * power};
}

enum class Level { baseline, avx2, avx512 };

// The widest that this processor runs.
inline Level best_level() {
#if defined(__x86_64__)
  static const Level level = [] {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      return Level::avx512;
    }
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return has_avx2 ? Level::avx2 : Level::baseline;
  }();
  return level;
#else
  return Level::baseline;
#endif
}

// The version that run() takes: the best, unless a test chooses another.
inline std::atomic<Level>& level_in_use() {
  static std::atomic<Level> level{best_level()};
  return level;
}

// a · b + c, rounded once where the instruction set can (FMA comes with AVX2 here), else twice.
template <Level level>
OUTSTEP_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__clang__) && defined(__x86_64__)
  if constexpr (level != Level::baseline) return {__builtin_elementwise_fma(a.v, b.v, c.v)};
#endif
  return a * b + c;
}

// Lanes of two rows, taken in turns: {a0, b0, a1, b1, …} of their first or second halves.
OUTSTEP_INLINE Lanes interleave_first(Lanes a, Lanes b) {
  return {
      __builtin_shufflevector(a.v, b.v, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)};
}
OUTSTEP_INLINE Lanes interleave_second(Lanes a, Lanes b) {
  return {__builtin_shufflevector(a.v, b.v, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
                                  15, 31)};
}
// Transposes sixteen rows of sixteen lanes: four perfect shuffles.
OUTSTEP_INLINE void transpose(Lanes (&rows)[kLanes]) {
  for (int shuffle = 0; shuffle < 4; ++shuffle) {
    Lanes next[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave_first(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = interleave_second(rows[i], rows[i + kLanes / 2]);
    }
    std::memcpy(rows, next, sizeof(next));
  }
}

template <typename Kernel, typename... Args>
void run_baseline(Args... args) {
  Kernel::template run<Level::baseline>(args...);
}
template <typename Kernel, typename... Args>
OUTSTEP_TARGET_AVX2 void run_avx2(Args... args) {
  Kernel::template run<Level::avx2>(args...);
}
template <typename Kernel, typename... Args>
OUTSTEP_TARGET_AVX512 void run_avx512(Args... args) {
  Kernel::template run<Level::avx512>(args...);
}

// Runs the version in use. Arguments are passed by value.
template <typename Kernel, typename... Args>
void run(Args... args) {
  switch (level_in_use().load(std::memory_order_relaxed)) {
    case Level::avx512:
      return run_avx512<Kernel, Args...>(args...);
    case Level::avx2:
      return run_avx2<Kernel, Args...>(args...);
    case Level::baseline:
      return run_baseline<Kernel, Args...>(args...);
  }
}

}  // namespace outstep::nn::simd
