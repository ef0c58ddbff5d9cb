#include "outstep/optim/norm.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <mutex>

#include "outstep/base/errors.h"
#include "outstep/base/parallel.h"
#include "outstep/optim/simd.h"

namespace outstep::optim {
namespace {

using simd::kLanes;

constexpr int kLimbBits = 32;
constexpr int64_t kLimbMask = (int64_t{1} << kLimbBits) - 1;
constexpr int64_t kBlocksPerTask = 256;  // 64 Ki elements: worth a thread

static_assert(kNormGrain % kLanes == 0);

constexpr int kHalf = kLanes / 2;
using F32x8 = float __attribute__((vector_size(sizeof(float) * kHalf)));
using F64x8 = double __attribute__((vector_size(sizeof(double) * kHalf)));

// The order in which a block is summed, part of the definition of the norm: 16 sums, one a lane,
// over the block's rows of 16 (missing elements count as zero), then halved four times.
OUTSTEP_INLINE double sum_full_block(const float* values) {
  F64x8 low = {}, high = {};  // lanes 0-7, 8-15
  for (int row = 0; row < kNormGrain / kLanes; ++row) {
    F32x8 narrow_low, narrow_high;
    std::memcpy(&narrow_low, values + row * kLanes, sizeof(narrow_low));
    std::memcpy(&narrow_high, values + row * kLanes + kHalf, sizeof(narrow_high));
    const F64x8 wide_low = __builtin_convertvector(narrow_low, F64x8);
    const F64x8 wide_high = __builtin_convertvector(narrow_high, F64x8);
    low += wide_low * wide_low;  // the products are exact: 48 bits
    high += wide_high * wide_high;
  }
  low += high;
  double lanes[kHalf];
  std::memcpy(lanes, &low, sizeof(lanes));
  for (int half = kHalf / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

OUTSTEP_INLINE void sum_blocks(const float* values, int64_t num_blocks, double* sums) {
  for (int64_t block = 0; block < num_blocks; ++block) {
    sums[block] = sum_full_block(values + block * kNormGrain);
  }
}
void sum_blocks_baseline(const float* values, int64_t num_blocks, double* sums) {
  sum_blocks(values, num_blocks, sums);
}
OUTSTEP_TARGET_AVX2 void sum_blocks_avx2(const float* values, int64_t num_blocks, double* sums) {
  sum_blocks(values, num_blocks, sums);
}
OUTSTEP_TARGET_AVX512 void sum_blocks_avx512(const float* values, int64_t num_blocks,
                                             double* sums) {
  sum_blocks(values, num_blocks, sums);
}

ExactSum squared_norm_on_cpu(const float* values, int64_t size, Kernels kernels) {
  const auto kernel = simd::pick(kernels, sum_blocks_baseline, sum_blocks_avx2, sum_blocks_avx512);
  std::mutex mutex;
  ExactSum total;  // guarded by mutex
  parallel_for(size, kBlocksPerTask * kNormGrain, [&](int64_t begin, int64_t end) {
    ExactSum part;
    double sums[kBlocksPerTask];
    const int64_t num_full = (end - begin) / kNormGrain;
    for (int64_t done = 0; done < num_full; done += kBlocksPerTask) {
      const int64_t count = std::min(kBlocksPerTask, num_full - done);
      kernel(values + begin + done * kNormGrain, count, sums);
      for (int64_t i = 0; i < count; ++i) part.add(sums[i]);
    }
    if (const int64_t tail = begin + num_full * kNormGrain; tail < end) {
      float padded[kNormGrain] = {};
      std::copy(values + tail, values + end, padded);
      kernel(padded, 1, sums);
      part.add(sums[0]);
    }
    std::lock_guard lock(mutex);
    total.add(part);
  });
  return total;
}

// The same sums in the same order with ATen's operators, for any device.
ExactSum squared_norm_by_operators(const at::Tensor& values) {
  const int64_t size = values.numel();
  const int64_t num_blocks = (size + kNormGrain - 1) / kNormGrain;
  const at::Tensor padded = at::constant_pad_nd(values, {0, num_blocks * kNormGrain - size});
  const at::Tensor rows = padded.view({num_blocks, kNormGrain / kLanes, kLanes});
  at::Tensor lanes = at::zeros({num_blocks, kLanes}, values.options().dtype(at::kDouble));
  for (int64_t row = 0; row < kNormGrain / kLanes; ++row) {
    const at::Tensor value = rows.select(1, row).to(at::kDouble);
    lanes = lanes + value * value;
  }
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    lanes = lanes.narrow(1, 0, half) + lanes.narrow(1, half, half);
  }
  const at::Tensor sums = lanes.select(1, 0).to(at::kCPU).contiguous();
  ExactSum total;
  for (int64_t block = 0; block < num_blocks; ++block)
    total.add(sums.const_data_ptr<double>()[block]);
  return total;
}

}  // namespace

void ExactSum::add(double value) {
  if (!(value < std::ldexp(1.0, -kLowestExponent - 1))) {  // also a NaN
    ++num_nonfinite;
    return;
  }
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  const int exponent = static_cast<int>(bits >> 52);
  if (exponent == 0) return;  // zero or below 2^-1022
  const uint64_t mantissa = (bits & ((uint64_t{1} << 52) - 1)) | (uint64_t{1} << 52);
  const int shift = exponent - 1075 - kLowestExponent;  // value = mantissa · 2^(shift + lowest)
  if (shift <= -53) return;
  if (shift < 0) {
    const uint64_t kept = mantissa >> -shift;
    limbs[0] += static_cast<int64_t>(kept & kLimbMask);
    limbs[1] += static_cast<int64_t>(kept >> kLimbBits);
    return;
  }
  const int limb = shift / kLimbBits;
  const unsigned __int128 wide = static_cast<unsigned __int128>(mantissa) << (shift % kLimbBits);
  for (int i = 0; i < 3 && limb + i < kNumLimbs; ++i) {
    limbs[limb + i] += static_cast<int64_t>(wide >> (i * kLimbBits)) & kLimbMask;
  }
}

void ExactSum::carry() {
  for (int i = 0; i + 1 < kNumLimbs; ++i) {
    limbs[i + 1] += limbs[i] >> kLimbBits;
    limbs[i] &= kLimbMask;
  }
}

void ExactSum::add(const ExactSum& other) {
  ExactSum addend = other;
  addend.carry();
  carry();
  for (int i = 0; i < kNumLimbs; ++i) limbs[i] += addend.limbs[i];
  num_nonfinite += other.num_nonfinite;
}

double ExactSum::to_double() const {
  if (num_nonfinite > 0) return std::numeric_limits<double>::infinity();
  ExactSum canonical = *this;
  canonical.carry();  // one form for each number, hence one result
  double result = 0;
  for (int i = 0; i < kNumLimbs; ++i) {
    result += std::ldexp(static_cast<double>(canonical.limbs[i]), kLowestExponent + i * kLimbBits);
  }
  return result;
}

at::Tensor ExactSum::to_words() const {
  ExactSum canonical = *this;
  canonical.carry();
  at::Tensor words = at::empty({kNumWords}, at::kLong);
  int64_t* data = words.mutable_data_ptr<int64_t>();
  std::copy(canonical.limbs.begin(), canonical.limbs.end(), data);
  data[kNumLimbs] = num_nonfinite;
  return words;
}

ExactSum ExactSum::from_words(const at::Tensor& words) {
  check(words.numel() == kNumWords && words.scalar_type() == at::kLong && words.is_contiguous(),
        "an ExactSum has kNumWords int64 words");
  ExactSum sum;
  const int64_t* data = words.const_data_ptr<int64_t>();
  std::copy(data, data + kNumLimbs, sum.limbs.begin());
  sum.num_nonfinite = data[kNumLimbs];
  return sum;
}

ExactSum squared_norm(const at::Tensor& values, Kernels kernels) {
  if (values.scalar_type() == at::kDouble) return squared_norm(values.to(at::kFloat), kernels);
  check(values.scalar_type() == at::kFloat && values.is_contiguous(),
        "squared_norm needs contiguous float32 values");
  if (values.numel() == 0) return {};
  if (!values.is_cpu() || kernels == Kernels::operators) return squared_norm_by_operators(values);
  return squared_norm_on_cpu(values.const_data_ptr<float>(), values.numel(), kernels);
}

double clip_factor(double norm, double max_norm) {
  if (max_norm <= 0) return 1;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace outstep::optim
