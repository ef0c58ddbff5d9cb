#include "outstep/method/difference.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "outstep/base/rng.h"

namespace outstep::method {
namespace {

at::Tensor random(int64_t size, double deviation, uint64_t seed) {
  at::Tensor values = at::empty({size}, at::kFloat);
  fill_normal(values, 0, deviation, {.seed = seed, .purpose = purpose("difference_test")});
  return values;
}

at::Tensor through(const DifferenceCodec& codec, const at::Tensor& values, const at::Tensor& base) {
  const at::Tensor encoded = at::empty({codec.encoded_bytes(values.numel())}, at::kByte);
  codec.encode(values, base, encoded);
  at::Tensor decoded = at::empty_like(values);
  codec.decode(encoded, base, decoded);
  return decoded;
}

TEST(DifferenceCodec, ErrsByAsMuchAsItsFormatSays) {
  constexpr double kRoundingOfTheSum = 3e-7;  // of numbers up to 4
  for (const int64_t size : {1, 255, 256, 257, 5000, 70'000}) {
    const at::Tensor base = random(size, 1, 1);
    const at::Tensor values = base + random(size, 1e-3, 2);
    const at::Tensor difference = (values - base).abs();
    const auto error_of = [&](DifferenceFormat format) {
      return (through(DifferenceCodec(format), values, base) - values).abs();
    };
    const at::Tensor allowed = difference / 256 + kRoundingOfTheSum;  // 8 bits of precision
    EXPECT_TRUE((error_of(DifferenceFormat::bf16) <= allowed).all().item<bool>());
    const at::Tensor errors = error_of(DifferenceFormat::int8);
    for (int64_t begin = 0; begin < size; begin += DifferenceCodec::kBlock) {
      const int64_t length = std::min(DifferenceCodec::kBlock, size - begin);
      const double scale = difference.narrow(0, begin, length).max().item<double>() / 127;
      EXPECT_LE(errors.narrow(0, begin, length).max().item<double>(),
                0.5001 * scale + kRoundingOfTheSum);
    }
  }
}

TEST(DifferenceCodec, OfEqualParametersIsNothing) {
  const at::Tensor values = random(300, 1, 3);
  for (const auto format : {DifferenceFormat::bf16, DifferenceFormat::int8}) {
    EXPECT_TRUE(at::equal(through(DifferenceCodec(format), values, values), values));
  }
}

TEST(DifferenceCodec, EncodedShardsAreShardsOfTheEncodedVector) {
  for (const auto format : {DifferenceFormat::bf16, DifferenceFormat::int8}) {
    const DifferenceCodec codec(format);
    for (const int64_t total : {0, 16, 256, 272, 1024, 4112, 100'000}) {
      for (const int count : {1, 2, 3, 5, 8}) {
        const comm::Shards shards{.total = total, .count = count, .grain = DifferenceCodec::kBlock};
        const comm::Shards encoded = codec.encoded(shards);
        for (int rank = 0; rank < count; ++rank) {
          EXPECT_EQ(encoded.size(rank), codec.encoded_bytes(shards.size(rank)))
              << total << " over " << count << ", rank " << rank;
        }
      }
    }
  }
}

}  // namespace
}  // namespace outstep::method
