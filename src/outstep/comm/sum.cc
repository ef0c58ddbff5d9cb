#include "outstep/comm/sum.h"

#include <bit>
#include <cstring>
#include <type_traits>

#include "outstep/base/errors.h"

namespace outstep::comm {
namespace {

constexpr int64_t kBlock = 2048;  // elements: accumulators of a block stay in the first-level cache

// Integers wrap around, as in ATen; signed overflow would be undefined.
template <typename T>
auto sum_type() {
  if constexpr (std::is_integral_v<T>) {
    return std::make_unsigned_t<T>{};
  } else if constexpr (std::is_same_v<T, at::BFloat16> || std::is_same_v<T, at::Half>) {
    return float{};
  } else {
    return T{};
  }
}

template <typename Out, typename Term>
void sum_terms(Out* out, std::span<const at::Tensor> terms, int64_t length) {
  using Sum = decltype(sum_type<Out>());
  // The accumulators are local, so the compiler knows that they overlap nothing and vectorises the
  // loops.
  alignas(64) Sum sums[kBlock];
  const auto values = [&](size_t term) {
    return static_cast<const Term*>(terms[term].const_data_ptr());
  };
  for (int64_t begin = 0; begin < length; begin += kBlock) {
    const int64_t count = std::min(kBlock, length - begin);
    const Term* first = values(0) + begin;
    if (terms.size() == 1) {
      for (int64_t i = 0; i < count; ++i) sums[i] = static_cast<Sum>(first[i]);
    } else {
      const Term* second = values(1) + begin;
      for (int64_t i = 0; i < count; ++i) {
        sums[i] = static_cast<Sum>(static_cast<Sum>(first[i]) + static_cast<Sum>(second[i]));
      }
    }
    for (size_t term = 2; term < terms.size(); ++term) {
      const Term* next = values(term) + begin;
      for (int64_t i = 0; i < count; ++i) {
        sums[i] = static_cast<Sum>(sums[i] + static_cast<Sum>(next[i]));
      }
    }
    if constexpr (sizeof(Out) == sizeof(Sum)) {
      std::memcpy(out + begin, sums, static_cast<size_t>(count) * sizeof(Out));
    } else {
      for (int64_t i = 0; i < count; ++i) out[begin + i] = static_cast<Out>(sums[i]);
    }
  }
}

template <typename T>
void sum_same(at::Tensor& out, std::span<const at::Tensor> terms) {
  sum_terms<T, T>(static_cast<T*>(out.mutable_data_ptr()), terms, out.numel());
}

}  // namespace

void sum_in_order(at::Tensor out, std::span<const at::Tensor> terms) {
  check(!terms.empty(), "a sum has terms");
  const at::ScalarType dtype = out.scalar_type();
  for (const at::Tensor& term : terms) {
    check(term.numel() == out.numel(), "the terms of a sum have its size");
    check(term.scalar_type() == terms[0].scalar_type(), "the terms of a sum have one dtype");
  }
  if (dtype == at::kFloat && terms[0].scalar_type() == at::kBFloat16) {
    return sum_terms<float, at::BFloat16>(out.mutable_data_ptr<float>(), terms, out.numel());
  }
  check(terms[0].scalar_type() == dtype, "the terms of a sum have its dtype");
  switch (dtype) {
    case at::kFloat:
      return sum_same<float>(out, terms);
    case at::kDouble:
      return sum_same<double>(out, terms);
    case at::kBFloat16:
      return sum_same<at::BFloat16>(out, terms);
    case at::kHalf:
      return sum_same<at::Half>(out, terms);
    case at::kLong:
      return sum_same<int64_t>(out, terms);
    case at::kInt:
      return sum_same<int32_t>(out, terms);
    case at::kShort:
      return sum_same<int16_t>(out, terms);
    case at::kChar:
      return sum_same<int8_t>(out, terms);
    case at::kByte:
      return sum_same<uint8_t>(out, terms);
    default:
      throw InternalError(std::string("no sum over ranks for dtype ") + at::toString(dtype));
  }
}

void round_to_bf16(at::Tensor out, const at::Tensor& values) {
  check(out.numel() == values.numel(), "rounding keeps the size");
  const float* from = values.const_data_ptr<float>();
  auto* to = reinterpret_cast<uint16_t*>(out.mutable_data_ptr<at::BFloat16>());
  const int64_t length = values.numel();
  for (int64_t i = 0; i < length; ++i) {
    const auto bits = std::bit_cast<uint32_t>(from[i]);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    to[i] = static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded);
  }
}

void copy_bytes(at::Tensor to, const at::Tensor& from) {
  check(to.nbytes() == from.nbytes(), "a copy keeps the size");
  if (to.nbytes() == 0 || to.const_data_ptr() == from.const_data_ptr()) return;
  std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), from.nbytes());
}

}  // namespace outstep::comm
