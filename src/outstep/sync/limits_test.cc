#include <string>
#include <tuple>

#include "outstep/sync/testing.h"

// Where the methods of this room must equal one another: in float32, with one micro-batch a rank
// and step, ddp and zero1 on N ranks are one rank that accumulates the same N micro-batches in rank
// order, to the last bit.

namespace outstep::sync {
namespace {

using testing::expect_same_bits;
using testing::Outcome;
using testing::Replica;
using testing::train;

const std::vector<std::vector<int64_t>> kShapes = {
    {1},                    // fewer parameters than ranks: most shards are empty
    {1009},                 // a prime
    {257, 31, 4099, 16, 3}  // several tensors and buckets, none a multiple of a shard
};

class LockstepLimits
    : public ::testing::TestWithParam<std::tuple<int, size_t, double, std::string>> {
 protected:
  Replica::Options options() const {
    const auto& [num_ranks, shape, clip_norm, optimizer] = GetParam();
    return {.optimizer = optimizer, .sizes = kShapes[shape], .clip_norm = clip_norm};
  }
  int num_ranks() const { return std::get<0>(GetParam()); }
};

TEST_P(LockstepLimits, DdpAndBothFormsOfZero1EqualOneRankBitForBit) {
  Replica::Options alone = options();
  alone.accumulation = num_ranks();
  const Outcome expected = train(1, alone, 5);
  for (const char* name : {"ddp", "zero1", "zero1_overlap"}) {
    SCOPED_TRACE(name);
    Replica::Options shared = options();
    shared.sync.name = name;
    expect_same_bits(train(num_ranks(), shared, 5), expected, shared.optimizer);
  }
}

INSTANTIATE_TEST_SUITE_P(Sync, LockstepLimits,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4, 8),
                                            ::testing::Range(size_t{0}, kShapes.size()),
                                            ::testing::Values(0.0, 0.5),
                                            ::testing::Values("sgd", "adamw")));

// With several micro-batches a rank, sums are grouped by rank: equal to one rank's to rounding, and
// to one another's.
TEST(Lockstep, SeveralMicroBatchesEqualOneRankToRounding) {
  Replica::Options options{.sizes = kShapes[2], .accumulation = 9, .clip_norm = 0.5};
  const Outcome alone = train(1, options, 5);
  options.accumulation = 3;
  options.sync.name = "ddp";
  const Outcome ddp = train(3, options, 5);
  options.sync.name = "zero1";
  const Outcome zero1 = train(3, options, 5);
  expect_same_bits(ddp, zero1, "adamw");
  // Another order of micro-batches too: AdamW's first steps amplify rounding where the gradient is
  // near zero.
  EXPECT_LT((ddp.values - alone.values).abs().max().item<double>(), 2e-3);
  EXPECT_LT((ddp.values - alone.values).abs().mean().item<double>(), 1e-6);
  EXPECT_NEAR(ddp.norms.back(), alone.norms.back(), 1e-6);
}

// Buckets are reduced in the order of the plan, even if backward finishes them in another.
TEST(Lockstep, TheOrderOfBackwardDoesNotMatter) {
  for (const char* name : {"ddp", "zero1_overlap"}) {
    Replica::Options options{.sync = {.name = name}, .sizes = kShapes[2]};
    const Outcome expected = train(2, options, 3);
    options.formula.announces_forwards = true;
    expect_same_bits(train(2, options, 3), expected, "adamw");
  }
}

TEST(Lockstep, TwoRunsHaveTheSameBits) {
  const Replica::Options options{.sync = {.name = "ddp"}, .sizes = kShapes[2]};
  expect_same_bits(train(4, options, 3), train(4, options, 3), "adamw");
}

// bfloat16 on the wire: ranks agree on every bit (train checks it), and the error is bfloat16's.
TEST(Lockstep, Bf16OnTheWireIsNearFloat32) {
  for (const char* name : {"ddp", "zero1", "zero1_overlap"}) {
    Replica::Options options{.sync = {.name = name}, .optimizer = "sgd", .sizes = kShapes[2]};
    const Outcome exact = train(2, options, 3);
    options.sync.wire = comm::Wire::bf16;
    const Outcome rounded = train(2, options, 3);
    const double difference = (exact.values - rounded.values).abs().max().item<double>();
    EXPECT_GT(difference, 0) << name;
    EXPECT_LT(difference, 5e-3) << name;
    EXPECT_NEAR(rounded.norms.back() / exact.norms.back(), 1, 1e-3) << name;
  }
}

}  // namespace
}  // namespace outstep::sync
