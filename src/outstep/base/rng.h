#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "outstep/base/torch.h"

// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011). A number is a function of
// its key and its position, so any rank can produce any other's, in any order, and nothing has to
// be saved to resume.
//
//   CounterRng rng({.seed = 1, .purpose = purpose("data.shuffle"), .stream = epoch});
//   uint64_t n = rng.below(60000);
//
// A CounterRng belongs to one thread; two with the same key give the same numbers.

namespace outstep {

// Names what the numbers are for, so that no two uses share a stream: a 32-bit hash of the name
// (FNV-1a).
constexpr uint32_t purpose(std::string_view name) {
  uint32_t hash = 2166136261u;
  for (char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  return hash;
}

struct RngKey {
  uint64_t seed = 0;
  uint32_t purpose = 0;
  uint64_t stream =
      0;  // step, epoch, parameter, …: whatever tells this use from its siblings (below 2^48)
};

class CounterRng {
 public:
  explicit CounterRng(RngKey key);

  uint32_t next_u32();
  uint64_t next_u64();
  // Uniform in [0, bound), without bias. bound must be positive.
  uint64_t below(uint64_t bound);
  double uniform();  // [0, 1), 53 bits

 private:
  void refill();

  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> block_{};
  int used_ = 4;
};

// One Philox4x32-10 block, the definition of everything above.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Fills a floating-point CPU tensor, in its logical (row-major) order, with element i drawn at
// position i of the key's stream: the same values whatever the strides. Two statistics in one place
// because initialisation needs just these.
void fill_normal(at::Tensor tensor, double mean, double deviation, RngKey key);
void fill_uniform(at::Tensor tensor, double low, double high, RngKey key);

// A permutation of [0, size) that can be asked for single elements: element i is found in constant
// time and memory, by a keyed Feistel network with cycle walking. Used to shuffle data without a
// table.
class Permutation {
 public:
  Permutation(uint64_t size, RngKey key);
  uint64_t operator[](uint64_t index) const;
  uint64_t size() const { return size_; }

 private:
  uint64_t size_;
  int half_bits_;
  std::array<uint32_t, 2> key_;
};

}  // namespace outstep
