#include "outstep/base/rng.h"

#include <cmath>
#include <numbers>

#include "outstep/base/errors.h"
#include "outstep/base/parallel.h"

namespace outstep {

namespace {

std::array<uint32_t, 2> philox_key(const RngKey& key) {
  return {static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)};
}

// Streams beyond would share their numbers with others.
void check_stream(const RngKey& key) {
  check(key.stream < uint64_t{1} << 48, "the stream of a random number is below 2^48");
}

// Counter layout: position (32 bits), upper position and stream (16 + 48 bits), purpose.
std::array<uint32_t, 4> philox_counter(const RngKey& key, uint64_t block) {
  return {static_cast<uint32_t>(block), static_cast<uint32_t>(key.stream),
          static_cast<uint32_t>((key.stream >> 32) & 0xFFFF) | static_cast<uint32_t>(block >> 32)
                                                                   << 16,
          key.purpose};
}

// (0, 1]: safe for the logarithm.
double open_unit(uint32_t bits) { return (static_cast<double>(bits) + 1.0) * 0x1p-32; }

// Values 4 b … 4 b + 3 of a normal stream, from one block: two Box-Muller pairs.
void normal_block(const RngKey& key, uint64_t block, double* out) {
  const auto bits = philox4x32(philox_counter(key, block), philox_key(key));
  for (int pair = 0; pair < 2; ++pair) {
    const double radius = std::sqrt(-2.0 * std::log(open_unit(bits[2 * pair])));
    const double angle = 2.0 * std::numbers::pi * bits[2 * pair + 1] * 0x1p-32;
    out[2 * pair] = radius * std::cos(angle);
    out[2 * pair + 1] = radius * std::sin(angle);
  }
}

void uniform_block(const RngKey& key, uint64_t block, double* out) {
  const auto bits = philox4x32(philox_counter(key, block), philox_key(key));
  for (int i = 0; i < 4; ++i) out[i] = bits[i] * 0x1p-32;
}

// Writes offset + scale · value(i) at logical position i, in chunks, so that a huge tensor needs no
// copy of itself.
template <typename BlockFunction>
void fill(at::Tensor tensor, double offset, double scale, const RngKey& key,
          BlockFunction block_of) {
  check(tensor.is_floating_point(), "random values are for floating-point tensors");
  check_stream(key);
  constexpr int64_t kChunk = 1 << 20;  // elements, a multiple of the block's four
  at::NoGradGuard no_grad;
  const bool is_row_major = tensor.is_contiguous();
  at::Tensor target =
      (is_row_major ? tensor
                    : at::empty(tensor.sizes(),
                                tensor.options().memory_format(at::MemoryFormat::Contiguous)))
          .view(-1);
  at::Tensor chunk = at::empty({std::min(kChunk, target.numel())}, at::kDouble);
  double* data = chunk.mutable_data_ptr<double>();
  for (int64_t first = 0; first < target.numel(); first += kChunk) {
    const int64_t count = std::min(kChunk, target.numel() - first);
    parallel_for((count + 3) / 4, 4096, [&](int64_t begin, int64_t end) {
      double four[4];
      for (int64_t block = begin; block < end; ++block) {
        block_of(key, static_cast<uint64_t>(first / 4 + block), four);
        for (int64_t i = 4 * block; i < std::min(4 * block + 4, count); ++i) {
          data[i] = offset + scale * four[i - 4 * block];
        }
      }
    });
    target.narrow(0, first, count).copy_(chunk.narrow(0, 0, count));
  }
  if (!is_row_major) tensor.copy_(target.view(tensor.sizes()));
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t right = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {
        static_cast<uint32_t>(right >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(right),
        static_cast<uint32_t>(left >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(left)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

CounterRng::CounterRng(RngKey key) : key_(philox_key(key)), counter_(philox_counter(key, 0)) {
  check_stream(key);
}

void CounterRng::refill() {
  block_ = philox4x32(counter_, key_);
  if (++counter_[0] == 0) counter_[2] += 1u << 16;
  used_ = 0;
}

uint32_t CounterRng::next_u32() {
  if (used_ == 4) refill();
  return block_[used_++];
}

uint64_t CounterRng::next_u64() {
  const uint64_t low = next_u32();
  return low | static_cast<uint64_t>(next_u32()) << 32;
}

uint64_t CounterRng::below(uint64_t bound) {
  check(bound > 0, "below needs a positive bound");
  // Lemire's multiply-and-reject: unbiased, and almost never a second draw.
  const uint64_t threshold = (0 - bound) % bound;
  while (true) {
    const auto product = static_cast<unsigned __int128>(next_u64()) * bound;
    if (static_cast<uint64_t>(product) >= threshold) return static_cast<uint64_t>(product >> 64);
  }
}

double CounterRng::uniform() { return static_cast<double>(next_u64() >> 11) * 0x1p-53; }

double CounterRng::normal() {
  if (has_spare_normal_) {
    has_spare_normal_ = false;
    return spare_normal_;
  }
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  const double angle = 2.0 * std::numbers::pi * uniform();
  spare_normal_ = radius * std::sin(angle);
  has_spare_normal_ = true;
  return radius * std::cos(angle);
}

void fill_normal(at::Tensor tensor, double mean, double deviation, RngKey key) {
  fill(std::move(tensor), mean, deviation, key, normal_block);
}

void fill_uniform(at::Tensor tensor, double low, double high, RngKey key) {
  fill(std::move(tensor), low, high - low, key, uniform_block);
}

Permutation::Permutation(uint64_t size, RngKey key) : size_(size), half_bits_(1) {
  check(size > 0 && size <= uint64_t{1} << 62, "a permutation has 1 to 2^62 elements");
  check_stream(key);
  while ((uint64_t{1} << (2 * half_bits_)) < size) ++half_bits_;
  const auto block = philox4x32(philox_counter(key, 0), philox_key(key));
  key_ = {block[0], block[1]};
}

uint64_t Permutation::operator[](uint64_t index) const {
  check(index < size_, "index beyond the permutation");
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t value = index;
  do {  // the network permutes [0, 4^half_bits); walk until inside [0, size)
    uint64_t left = value >> half_bits_;
    uint64_t right = value & mask;
    for (uint32_t round = 0; round < 6; ++round) {
      const auto bits = philox4x32(
          {static_cast<uint32_t>(right), static_cast<uint32_t>(right >> 32), round, 0}, key_);
      const uint64_t mixed = left ^ ((bits[0] | static_cast<uint64_t>(bits[1]) << 32) & mask);
      left = right;
      right = mixed;
    }
    value = left << half_bits_ | right;
  } while (value >= size_);
  return value;
}

}  // namespace outstep
