#include "outstep/base/rng_kernels.h"

#include <algorithm>
#include <bit>
#include <numbers>

#include "outstep/base/errors.h"

#define OUTSTEP_INLINE [[gnu::always_inline]] inline
#if defined(__x86_64__)
#define OUTSTEP_TARGET_AVX2 [[gnu::target("avx2")]]
#else
#define OUTSTEP_TARGET_AVX2
#endif

namespace outstep::rng {

namespace {

constexpr int kLanes = 16;              // Philox blocks made side by side
constexpr int64_t kBatch = 4 * kLanes;  // values in them
constexpr double kExact = 0x1p52;       // doubles from here on are whole numbers
constexpr uint64_t kExactBits = 0x4330000000000000;

using Bits = uint32_t[4][kLanes];
using Lanes = double[kLanes];

// philox4x32, a block a lane, from first_block on.
OUTSTEP_INLINE void draw(const RngKey& key, uint64_t first_block, Bits& c) {
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t block = first_block + static_cast<uint64_t>(i);
    c[0][i] = static_cast<uint32_t>(block);
    c[1][i] = static_cast<uint32_t>(key.stream);
    c[2][i] = static_cast<uint32_t>(key.stream >> 32) | static_cast<uint32_t>(block >> 32) << 16;
    c[3][i] = key.purpose;
  }
  auto key0 = static_cast<uint32_t>(key.seed);
  auto key1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t left = uint64_t{0xD2511F53u} * c[0][i];
      const uint64_t right = uint64_t{0xCD9E8D57u} * c[2][i];
      c[0][i] = static_cast<uint32_t>(right >> 32) ^ c[1][i] ^ key0;
      c[1][i] = static_cast<uint32_t>(right);
      c[2][i] = static_cast<uint32_t>(left >> 32) ^ c[3][i] ^ key1;
      c[3][i] = static_cast<uint32_t>(left);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

OUTSTEP_INLINE double to_double(uint64_t below_2_52) {
  return std::bit_cast<double>(below_2_52 | kExactBits) - kExact;
}

OUTSTEP_INLINE double root(double x) {
#if defined(__clang__)
  return __builtin_elementwise_sqrt(x);  // never sets errno, so loops of it are vectorised
#else
  return __builtin_sqrt(x);
#endif
}

// The natural logarithm of (bits + 1) / 2^32, which is in (0, 1]; to 2e-16 of its value.
OUTSTEP_INLINE double log_of_open_unit(uint32_t bits) {
  // bits + 1 = m · 2^exponent with m in [√½, √2), where atanh's series converges quickly:
  // log m = 2 atanh(s) = 2 s (1 + s²/3 + s⁴/5 + …), s = (m - 1) / (m + 1), |s| < 0.172.
  const auto n = std::bit_cast<uint64_t>(to_double(bits) + 1.0);
  constexpr uint64_t kRootOfHalf = 0x3FE6A09E667F3BCD;
  const uint64_t exponent = (n - kRootOfHalf) >> 52;
  const auto m = std::bit_cast<double>(n - (exponent << 52));
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double series = 1.0 / 21;
  for (int odd = 19; odd >= 1; odd -= 2) series = series * z + 1.0 / odd;
  return (to_double(exponent) - 32.0) * std::numbers::ln2 + 2.0 * s * series;
}

// The cosine and sine of `turn` / 2^32 turns, each to 2e-16.
OUTSTEP_INLINE void cos_and_sin(uint32_t turn, double& cosine, double& sine) {
  // The nearest quarter turn, and what is left: exact, within ± an eighth.
  const uint32_t quarter = (turn + (1u << 29)) >> 30;
  const auto rest = static_cast<int32_t>(turn - (quarter << 30));
  const double x = rest * (2.0 * std::numbers::pi * 0x1p-32);
  const double z = -x * x;
  double c = 1.0, s = 1.0;  // Taylor's series, from the highest term: 1 + z/(n-1)n · (1 + …)
  for (int n = 16; n >= 2; n -= 2) c = 1.0 + c * z * (1.0 / ((n - 1) * n));
  for (int n = 15; n >= 3; n -= 2) s = 1.0 + s * z * (1.0 / ((n - 1) * n));
  s *= x;
  const bool is_odd = quarter & 1;
  const double first = is_odd ? s : c;
  const double second = is_odd ? c : s;
  cosine = (quarter + 1) & 2 ? -first : first;
  sine = quarter & 2 ? -second : second;
}

// Box-Muller: two pairs a block.
OUTSTEP_INLINE void to_normal(const Bits& bits, Lanes (&out)[4]) {
  for (int pair = 0; pair < 4; pair += 2) {
    for (int i = 0; i < kLanes; ++i) {
      const double radius = root(-2.0 * log_of_open_unit(bits[pair][i]));
      double cosine = 0, sine = 0;
      cos_and_sin(bits[pair + 1][i], cosine, sine);
      out[pair][i] = radius * cosine;
      out[pair + 1][i] = radius * sine;
    }
  }
}

OUTSTEP_INLINE void to_uniform(const Bits& bits, Lanes (&out)[4]) {
  for (int j = 0; j < 4; ++j) {
    for (int i = 0; i < kLanes; ++i) out[j][i] = to_double(bits[j][i]) * 0x1p-32;
  }
}

template <typename T>
OUTSTEP_INLINE void write_batch(const Values& values, uint64_t first_block, T* out) {
  Bits bits;
  Lanes lanes[4];
  draw(values.key, first_block, bits);
  if (values.distribution == Distribution::normal) {
    to_normal(bits, lanes);
  } else {
    to_uniform(bits, lanes);
  }
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < 4; ++j) {
      out[4 * i + j] = static_cast<T>(values.offset + values.scale * lanes[j][i]);
    }
  }
}

template <typename T>
OUTSTEP_INLINE void write_all(const Values& values, T* out) {
  for (int64_t done = 0; done < values.count; done += kBatch) {
    const auto block = static_cast<uint64_t>((values.first + done) / 4);
    if (values.count - done >= kBatch) {
      write_batch(values, block, out + done);
    } else {
      T last[kBatch];
      write_batch(values, block, last);
      std::copy_n(last, values.count - done, out + done);
    }
  }
}

template <typename T>
void write_baseline(const Values& values, T* out) {
  write_all(values, out);
}
template <typename T>
OUTSTEP_TARGET_AVX2 void write_avx2(const Values& values, T* out) {
  write_all(values, out);
}

template <typename T>
void write_with(Kernels kernels, const Values& values, T* out) {
  check(values.first % 4 == 0, "random values are written from the beginning of a block");
  (kernels == Kernels::avx2 ? write_avx2<T> : write_baseline<T>)(values, out);
}

}  // namespace

Kernels best_kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return Kernels::avx2;
#endif
  return Kernels::baseline;
}

void write(Kernels kernels, const Values& values, float* out) { write_with(kernels, values, out); }
void write(Kernels kernels, const Values& values, double* out) { write_with(kernels, values, out); }

}  // namespace outstep::rng
