#include "outstep/comm/collectives.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "outstep/base/errors.h"
#include "outstep/comm/local_group.h"
#include "outstep/comm/sum.h"

namespace outstep::comm {
namespace {

using collectives::Cut;

constexpr Cut kTinyCut = {.segment_bytes = 64, .window_bytes = 256, .direct_bytes = 100};

// Values whose sum depends on the order of summation, where the dtype is floating.
at::Tensor values_of(int rank, int64_t length, at::ScalarType dtype) {
  std::mt19937_64 random(static_cast<uint64_t>(rank) * 7919 + static_cast<uint64_t>(length));
  at::Tensor values = at::empty({length}, at::kDouble);
  double* to = values.mutable_data_ptr<double>();
  for (int64_t i = 0; i < length; ++i) {
    const double sign = random() % 2 == 0 ? 1 : -1;
    to[i] = at::isFloatingType(dtype) ? sign * std::ldexp(static_cast<double>(random() % 1000003),
                                                          static_cast<int>(random() % 12) - 20)
                                      : static_cast<double>(random() % 100);
  }
  return values.to(dtype);
}

// The definition: ((x0 + x1) + x2) + …
at::Tensor serial_sum(int size, int64_t length, at::ScalarType dtype, Wire wire) {
  const auto contribution = [&](int rank) {
    const at::Tensor values = values_of(rank, length, dtype);
    return wire == Wire::bf16 ? values.to(at::kBFloat16).to(dtype) : values;
  };
  at::Tensor sum = contribution(0).clone();
  for (int rank = 1; rank < size; ++rank) sum.add_(contribution(rank));
  return sum;
}

::testing::AssertionResult same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.numel() != b.numel()) {
    return ::testing::AssertionFailure() << "dtype or size differ";
  }
  if (a.numel() == 0 || std::memcmp(a.contiguous().const_data_ptr(),
                                    b.contiguous().const_data_ptr(), a.nbytes()) == 0) {
    return ::testing::AssertionSuccess();
  }
  const at::Tensor differing = at::nonzero(a.ne(b));
  return ::testing::AssertionFailure()
         << differing.numel() << " of " << a.numel() << " elements differ, first "
         << (differing.numel() > 0 ? differing[0].item<int64_t>() : -1);
}

struct Case {
  int size;
  Wire wire;
};

class Collectives : public ::testing::TestWithParam<Case> {
 protected:
  void run(const std::function<void(Group&)>& body) {
    run_local_ranks(GetParam().size, [&](Group& group) {
      // Torch's thread-local state is each thread's own.
      at::NoGradGuard no_grad;
      body(group);
    });
  }
  Wire wire() const { return GetParam().wire; }
};

TEST_P(Collectives, AllReduceIsTheSumInRankOrder) {
  for (const int64_t length : {0, 1, 7, 50, 333, 5000}) {
    for (const Cut& cut : {Cut{}, kTinyCut}) {
      at::Tensor expected = serial_sum(GetParam().size, length, at::kFloat, wire());
      if (wire() == Wire::bf16) expected = expected.to(at::kBFloat16).to(at::kFloat);
      run([&](Group& group) {
        at::Tensor tensor = values_of(group.rank(), length, at::kFloat);
        collectives::all_reduce(group, tensor, {.tag = 3}, wire(), cut);
        EXPECT_TRUE(same_bits(tensor, expected)) << "length " << length;
      });
    }
  }
}

TEST_P(Collectives, ReduceScatterIsTheSumInRankOrder) {
  for (const int64_t length : {0, 1, 7, 50, 333, 5000}) {
    const Shards shards{.total = length, .count = GetParam().size, .grain = 5};
    const at::Tensor expected = serial_sum(GetParam().size, length, at::kFloat, wire());
    run([&](Group& group) {
      const int rank = group.rank();
      const at::Tensor input = values_of(rank, length, at::kFloat);
      const at::Tensor output = at::empty({shards.size(rank)});
      collectives::reduce_scatter(group, input, output, shards, {}, wire(), kTinyCut);
      const at::Tensor expected_shard = expected.narrow(0, shards.begin(rank), shards.size(rank));
      EXPECT_TRUE(same_bits(output, expected_shard)) << "length " << length;
      EXPECT_TRUE(same_bits(input, values_of(rank, length, at::kFloat))) << "the input was written";
      // In place: the output is the own shard of the input.
      const at::Tensor own = input.narrow(0, shards.begin(rank), shards.size(rank));
      collectives::reduce_scatter(group, input, own, shards, {}, wire(), kTinyCut);
      EXPECT_TRUE(same_bits(own, expected_shard)) << "in place, length " << length;
    });
  }
}

TEST_P(Collectives, AllGatherLeavesTheSameBitsEverywhere) {
  for (const int64_t length : {0, 1, 7, 50, 333, 5000}) {
    const Shards shards{.total = length, .count = GetParam().size, .grain = 5};
    at::Tensor expected = values_of(0, length, at::kFloat);
    if (wire() == Wire::bf16) expected = expected.to(at::kBFloat16).to(at::kFloat);
    run([&](Group& group) {
      const int64_t begin = shards.begin(group.rank());
      const int64_t size = shards.size(group.rank());
      const at::Tensor input = values_of(0, length, at::kFloat).narrow(0, begin, size);
      at::Tensor output = at::full({length}, -1, at::kFloat);
      collectives::all_gather(group, input, output, shards, {}, wire(), kTinyCut);
      EXPECT_TRUE(same_bits(output, expected)) << "length " << length;
      output.fill_(-1);
      output.narrow(0, begin, size).copy_(input);
      collectives::all_gather(group, output.narrow(0, begin, size), output, shards, {}, wire(),
                              kTinyCut);
      EXPECT_TRUE(same_bits(output, expected)) << "in place, length " << length;
    });
  }
}

TEST_P(Collectives, SumsEveryDtype) {
  for (const at::ScalarType dtype :
       {at::kDouble, at::kLong, at::kInt, at::kShort, at::kChar, at::kByte}) {
    const at::Tensor expected = serial_sum(GetParam().size, 77, dtype, Wire::exact);
    run([&](Group& group) {
      at::Tensor tensor = values_of(group.rank(), 77, dtype);
      collectives::all_reduce(group, tensor, {}, wire(), kTinyCut);  // bf16 is for float32 only
      EXPECT_TRUE(same_bits(tensor, expected)) << at::toString(dtype);
    });
  }
}

TEST_P(Collectives, BroadcastsFromEveryRoot) {
  for (int root = 0; root < GetParam().size; ++root) {
    for (const int64_t length : {0, 1, 333}) {
      run([&](Group& group) {
        at::Tensor tensor = values_of(group.rank(), length, at::kFloat);
        collectives::broadcast(group, tensor, root, {}, kTinyCut);
        EXPECT_TRUE(same_bits(tensor, values_of(root, length, at::kFloat)));
      });
    }
  }
}

TEST_P(Collectives, AllToAllTransposes) {
  const int size = GetParam().size;
  run([&](Group& group) {
    const at::Tensor input = values_of(group.rank(), size * 6, at::kFloat).view({size, 2, 3});
    const at::Tensor output = at::empty({size, 2, 3});
    group.all_to_all(input, output);
    for (int peer = 0; peer < size; ++peer) {
      const at::Tensor theirs = values_of(peer, size * 6, at::kFloat).view({size, 2, 3});
      EXPECT_TRUE(same_bits(output[peer], theirs[group.rank()]));
    }
  });
}

// Rank a sends (a + 2 b) mod 4 elements to rank b, and nothing at all where that is 0.
TEST_P(Collectives, AllToAllOfUnevenParts) {
  const int size = GetParam().size;
  const auto count = [](int from, int to) { return int64_t{(from + 2 * to) % 4}; };
  const auto sum_before = [&](int rank, const auto& of) {
    int64_t sum = 0;
    for (int peer = 0; peer < rank; ++peer) sum += of(peer);
    return sum;
  };
  run([&](Group& group) {
    Splits splits;
    for (int peer = 0; peer < size; ++peer) {
      splits.sent.push_back(count(group.rank(), peer));
      splits.received.push_back(count(peer, group.rank()));
    }
    const auto sent_by = [&](int rank) {
      return sum_before(size, [&](int to) { return count(rank, to); });
    };
    const auto received_from = [&](int from) { return count(from, group.rank()); };
    const at::Tensor input = values_of(group.rank(), sent_by(group.rank()), at::kFloat);
    const at::Tensor output = at::empty({sum_before(size, received_from)});
    const int64_t before = group.bytes_sent();
    group.all_to_all(input, output, splits);
    EXPECT_EQ(group.bytes_sent() - before, 4 * (input.numel() - count(group.rank(), group.rank())));
    for (int peer = 0; peer < size; ++peer) {
      const at::Tensor theirs = values_of(peer, sent_by(peer), at::kFloat);
      const int64_t begin = sum_before(group.rank(), [&](int to) { return count(peer, to); });
      const int64_t length = count(peer, group.rank());
      EXPECT_TRUE(same_bits(output.narrow(0, sum_before(peer, received_from), length),
                            theirs.narrow(0, begin, length).clone()));
    }
  });
}

TEST_P(Collectives, BarrierWaitsForAll) {
  std::atomic<int> num_arrived{0};
  run([&](Group& group) {
    for (int round = 1; round <= 5; ++round) {
      ++num_arrived;
      group.barrier();
      EXPECT_GE(num_arrived, round * group.size());
      group.barrier();
    }
  });
}

// Any cut, any length, collectives after one another under the same tag without a barrier between
// them.
TEST_P(Collectives, FuzzedSizesAndCuts) {
  std::mt19937_64 random(17);
  for (int trial = 0; trial < 25; ++trial) {
    const auto length = static_cast<int64_t>(random() % 700);
    const Cut cut = {.segment_bytes = 4 + static_cast<int64_t>(random() % 300),
                     .window_bytes = static_cast<int64_t>(random() % 2000),
                     .direct_bytes = random() % 2 == 0 ? 0 : 1 << 20};
    const Shards shards{.total = length,
                        .count = GetParam().size,
                        .grain = 1 + static_cast<int64_t>(random() % 40)};
    const at::Tensor sum = serial_sum(GetParam().size, length, at::kFloat, wire());
    const at::Tensor rounded_sum =
        wire() == Wire::bf16 ? sum.to(at::kBFloat16).to(at::kFloat) : sum;
    run([&](Group& group) {
      const int rank = group.rank();
      const at::Tensor input = values_of(rank, length, at::kFloat);
      at::Tensor output = at::empty({length});
      const at::Tensor own = output.narrow(0, shards.begin(rank), shards.size(rank));
      at::Tensor reduced = input.clone();
      collectives::reduce_scatter(group, input, own, shards, {}, wire(), cut);
      collectives::all_gather(group, own, output, shards, {}, wire(), cut);
      collectives::all_reduce(group, reduced, {}, wire(), cut);
      EXPECT_TRUE(same_bits(output, rounded_sum)) << "trial " << trial << ", length " << length;
      EXPECT_TRUE(same_bits(reduced, rounded_sum)) << "trial " << trial << ", length " << length;
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Worlds, Collectives,
                         ::testing::Values(Case{1, Wire::exact}, Case{2, Wire::exact},
                                           Case{3, Wire::exact}, Case{4, Wire::exact},
                                           Case{5, Wire::exact}, Case{8, Wire::exact},
                                           Case{1, Wire::bf16}, Case{2, Wire::bf16},
                                           Case{3, Wire::bf16}, Case{5, Wire::bf16},
                                           Case{8, Wire::bf16}),
                         [](const auto& test) {
                           return std::to_string(test.param.size) +
                                  (test.param.wire == Wire::bf16 ? "RanksBf16" : "RanksExact");
                         });

TEST(Sum, RoundsToBf16AsTorchDoes) {
  std::mt19937 random(5);
  at::Tensor values = at::empty({100'000});
  auto* bits = reinterpret_cast<uint32_t*>(values.mutable_data_ptr<float>());
  for (int64_t i = 0; i < values.numel(); ++i) bits[i] = random();  // infinities and denormals too
  values = at::where(values.isnan(), at::zeros({}), values);
  at::Tensor rounded = at::empty({values.numel()}, at::kBFloat16);
  round_to_bf16(rounded, values);
  EXPECT_TRUE(same_bits(rounded, values.to(at::kBFloat16)));
  at::Tensor nan = at::full({1}, std::numeric_limits<float>::quiet_NaN());
  at::Tensor rounded_nan = at::empty({1}, at::kBFloat16);
  round_to_bf16(rounded_nan, nan);
  EXPECT_TRUE(rounded_nan.isnan().all().item<bool>());
}

TEST(Sum, HalfPrecisionIsSummedInFloatAndRoundedOnce) {
  const std::vector<at::Tensor> terms = {at::full({1}, 256, at::kBFloat16),
                                         at::full({1}, 1, at::kBFloat16),
                                         at::full({1}, 1, at::kBFloat16)};
  at::Tensor sum = at::empty({1}, at::kBFloat16);
  sum_in_order(sum, terms);
  EXPECT_EQ(sum.item<float>(), 258);  // in bfloat16, 256 + 1 is 256 again
}

TEST(Sum, RefusesADtypeWithoutAddition) {
  const std::vector<at::Tensor> terms = {at::zeros({1}, at::kBool), at::zeros({1}, at::kBool)};
  EXPECT_THROW(sum_in_order(at::zeros({1}, at::kBool), terms), InternalError);
}

}  // namespace
}  // namespace outstep::comm
