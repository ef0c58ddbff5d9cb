#include "outstep/sync/testing.h"

// ACCO and its kin on worlds of many sizes, with rounded messages, and going on in another world.
// Of ACCO's specification: 4 sharding, 11 checkpoints.

namespace outstep::sync {
namespace {

using testing::expect_same_bits;
using testing::Outcome;
using testing::Replica;
using testing::run_ranks;
using testing::train;

const std::vector<int64_t> kSizes = {257, 31, 4099, 16, 3};

Replica::Options options_of(const std::string& sync, int64_t accumulation) {
  return {.sync = {.name = sync, .acco = {.estimate_micro_batches = accumulation / 2}},
          .sizes = kSizes,
          .accumulation = accumulation,
          .clip_norm = 0.5};
}

// Numbers of ranks that divide nothing; acco_test.cc has the powers of two and three.
TEST(Acco4, OddWorldsAreUnshardedBitForBit) {
  for (const char* sync : {"acco", "dpu", "wp"}) {
    for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{1}, {5}, {1009}, kSizes}) {
      for (const int num_ranks : {5, 6, 7}) {
        SCOPED_TRACE(sync + std::to_string(num_ranks));
        // A half of ACCO's is one micro-batch a rank, as is a step of the others'.
        const int64_t num_halves = std::string(sync) == "acco" ? 2 : 1;
        Replica::Options alone = options_of(sync, num_halves * num_ranks);
        Replica::Options shared = options_of(sync, num_halves);
        alone.sizes = shared.sizes = sizes;
        expect_same_bits(train(num_ranks, shared, 4), train(1, alone, 4), "adamw");
      }
    }
  }
}

double largest_difference(const Outcome& a, const Outcome& b) {
  return (a.values - b.values).abs().max().item<double>();
}

// bfloat16 keeps 8 bits: each contribution to a gradient is off by 0.4 % at most, and so is what
// they move (train() checks that ranks agree on every bit).
TEST(Acco4, Bf16OnTheWireIsNearFloat32) {
  for (const char* sync : {"acco", "dpu", "wp"}) {
    for (const int num_ranks : {2, 4, 7}) {
      SCOPED_TRACE(sync + std::to_string(num_ranks));
      Replica::Options options = options_of(sync, 2);
      options.optimizer = "sgd";
      options.clip_norm = 0;
      const Outcome start = train(num_ranks, options, 0);
      const Outcome exact = train(num_ranks, options, 6);
      options.sync.wire = comm::Wire::bf16;
      const Outcome rounded = train(num_ranks, options, 6);
      EXPECT_GT(largest_difference(rounded, exact), 0);
      EXPECT_LT(largest_difference(rounded, exact), 0.004 * largest_difference(exact, start));
      EXPECT_NEAR(rounded.norms.back() / exact.norms.back(), 1, 1e-3);
    }
  }
}

// Gradients computed at rounded parameters; what is committed is not rounded.
TEST(Acco4, Bf16LiveParametersAreNearFloat32) {
  for (const char* sync : {"acco", "dpu", "wp"}) {
    SCOPED_TRACE(sync);
    Replica::Options options = options_of(sync, 2);
    options.optimizer = "sgd";
    const Outcome start = train(3, options, 0);
    const Outcome exact = train(3, options, 6);
    options.sync.overlapped.live = comm::Wire::bf16;
    const Outcome rounded = train(3, options, 6);
    EXPECT_GT(largest_difference(rounded, exact), 0);
    EXPECT_LT(largest_difference(rounded, exact), 0.004 * largest_difference(exact, start));
    EXPECT_FALSE(at::equal(rounded.values, rounded.values.to(at::kBFloat16).to(at::kFloat)));
  }
}

// Goes on from a checkpoint with as many micro-batches a half as the world has always had, in the
// same order: what num_ranks ranks make of num_commits commits.
Outcome go_on(const Outcome& from, int num_saved, int num_ranks, int num_commits) {
  const Replica::Options saved = options_of("acco", 4);
  // Both halves of the first step and the next one's first.
  const int64_t num_drawn = num_saved * (saved.accumulation + saved.accumulation / 2);
  Outcome outcome;
  run_ranks(num_ranks, [&](comm::Group& group) {
    Replica replica(group, options_of("acco", saved.accumulation * num_saved / num_ranks));
    replica.load(group.rank(), *from.checkpoint, from.values, 1, num_ranks == num_saved);
    replica.engine().seek(num_drawn / num_ranks);
    replica.steps(num_commits);
    replica.pause();
    replica.save(group.rank(), *outcome.checkpoint);
    if (group.rank() == 0) {
      outcome.values = replica.values().clone();
      for (const auto& report : replica.reports()) outcome.norms.push_back(report.grad_norm);
    }
  });
  return outcome;
}

// Saved right after the first commit, when the estimate half that is pending is the first one that
// was computed at an estimate.
TEST(Acco11, ResumesAfterTheFirstCommitInEveryWorld) {
  constexpr int kSaved = 4;
  const Outcome first = train(kSaved, options_of("acco", 4), 1);
  Outcome whole = train(kSaved, options_of("acco", 4), 6);
  whole.norms.erase(whole.norms.begin());
  expect_same_bits(go_on(first, kSaved, kSaved, 5), whole, "adamw");
  // Other worlds add the same micro-batches in another order. AdamW's first steps amplify rounding
  // where the gradient is near zero, so the mean tells more than the maximum.
  for (const int num_ranks : {1, 2, 8}) {
    SCOPED_TRACE(num_ranks);
    const Outcome other = go_on(first, kSaved, num_ranks, 5);
    EXPECT_LT((other.values - whole.values).abs().mean().item<double>(), 1e-6);
    ASSERT_EQ(other.norms.size(), whole.norms.size());
    for (size_t i = 0; i < whole.norms.size(); ++i) {
      EXPECT_NEAR(other.norms[i] / whole.norms[i], 1, 1e-5) << i;
    }
  }
}

}  // namespace
}  // namespace outstep::sync
