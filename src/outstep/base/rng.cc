#include "outstep/base/rng.h"

#include <algorithm>

#include "outstep/base/errors.h"
#include "outstep/base/parallel.h"
#include "outstep/base/rng_kernels.h"

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

// Writes the values of a row-major tensor, each thread a range of whole blocks.
template <typename T>
void write_row_major(const at::Tensor& tensor, const rng::Values& all) {
  constexpr int64_t kGrain = 1 << 15;
  T* out = tensor.mutable_data_ptr<T>();
  parallel_for(tensor.numel(), kGrain, [&](int64_t begin, int64_t end) {
    rng::Values part = all;
    part.first = all.first + begin;
    part.count = end - begin;
    rng::write(rng::best_kernels(), part, out + begin);
  });
}

void fill(const at::Tensor& tensor, rng::Values values) {
  check(tensor.is_floating_point(), "random values are for floating-point tensors");
  check_stream(values.key);
  const at::NoGradGuard no_grad;
  if (!tensor.is_contiguous()) {
    at::Tensor row_major =
        at::empty(tensor.sizes(), tensor.options().memory_format(at::MemoryFormat::Contiguous));
    fill(row_major, values);
    tensor.copy_(row_major);
  } else if (tensor.scalar_type() == at::kFloat) {
    write_row_major<float>(tensor, values);
  } else if (tensor.scalar_type() == at::kDouble) {
    write_row_major<double>(tensor, values);
  } else {  // rounded from double, in chunks, so that a huge tensor needs no such copy of itself
    constexpr int64_t kChunk = 1 << 20;
    const at::Tensor flat = tensor.view(-1);
    const at::Tensor chunk = at::empty({std::min(kChunk, flat.numel())}, at::kDouble);
    for (values.first = 0; values.first < flat.numel(); values.first += kChunk) {
      const at::Tensor part = chunk.narrow(0, 0, std::min(kChunk, flat.numel() - values.first));
      write_row_major<double>(part, values);
      flat.narrow(0, values.first, part.numel()).copy_(part);
    }
  }
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
  // Lemire's multiply-and-reject: unbiased, almost never a second draw, and almost never a
  // division.
  while (true) {
    const auto product = static_cast<unsigned __int128>(next_u64()) * bound;
    const auto low = static_cast<uint64_t>(product);
    if (low >= bound || low >= (0 - bound) % bound) return static_cast<uint64_t>(product >> 64);
  }
}

double CounterRng::uniform() { return static_cast<double>(next_u64() >> 11) * 0x1p-53; }

void fill_normal(at::Tensor tensor, double mean, double deviation, RngKey key) {
  fill(tensor,
       {.distribution = rng::Distribution::normal, .key = key, .offset = mean, .scale = deviation});
}

void fill_uniform(at::Tensor tensor, double low, double high, RngKey key) {
  fill(
      tensor,
      {.distribution = rng::Distribution::uniform, .key = key, .offset = low, .scale = high - low});
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
