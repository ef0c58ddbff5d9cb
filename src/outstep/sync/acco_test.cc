#include "outstep/sync/acco.h"

#include <condition_variable>
#include <mutex>
#include <thread>

#include "outstep/comm/faulty.h"
#include "outstep/sync/testing.h"

// The properties that define ACCO, numbered as in the method's specification: 1 the serial
// reference, 2 no delay, 3 rollback, 4 sharding, 5 uneven counts, 6 stability, 7 agreement,
// 8 overlap. Checkpoints (11) and faults (10) are the contract suite's.

namespace outstep::sync {
namespace {

using testing::expect_same_bits;
using testing::FormulaEngine;
using testing::FormulaOptions;
using ::testing::HasSubstr;
using testing::make_optimizer;
using testing::Outcome;
using testing::ParametersOnly;
using testing::Replica;
using testing::run_ranks;
using testing::train;

const std::vector<int64_t> kSizes = {257, 31, 4099, 16, 3};

Replica::Options acco(int64_t first_half, int64_t second_half) {
  return {.sync = {.name = "acco", .acco = {.estimate_micro_batches = first_half}},
          .sizes = kSizes,
          .accumulation = first_half + second_half,
          .clip_norm = 0.5};
}

// Equations (A) and (B) as they stand, one after the other on one rank.
class SerialReference {
 public:
  SerialReference(const std::string& optimizer, int64_t first_half, int64_t second_half)
      : model_(kSizes),
        params_(model_, 1),
        optimizer_(make_optimizer(optimizer, params_)),
        engine_(params_, {}),
        num_first_(first_half),
        num_second_(second_half),
        state_(optimizer_->make_state({0, params_.size()})),
        committed_(params_.values().clone()),
        first_(sum(num_first_)) {}

  void step(const method::StepContext& context) {
    const at::Tensor second = sum(num_second_);  // at θ
    const at::Tensor estimate = committed_.clone();
    update(first_, num_first_, context, estimate, nullptr);                                   // (A)
    norm_ = update(first_ + second, num_first_ + num_second_, context, committed_, &state_);  // (B)
    params_.values().copy_(estimate);
    first_ = sum(num_first_);  // at θ̃
    params_.values().copy_(committed_);
  }

  const at::Tensor& committed() const { return committed_; }
  const optim::State& state() const { return state_; }
  double norm() const { return norm_; }

 private:
  at::Tensor sum(int64_t count) {
    params_.zero_gradients();
    for (int64_t i = 0; i < count; ++i) engine_.accumulate();
    return params_.gradients().clone();
  }
  double update(const at::Tensor& gradient, int64_t count, const method::StepContext& context,
                const at::Tensor& out, optim::State* state_out) {
    const auto judgement =
        method::judge(optim::squared_norm(gradient), count, context, method::OnNonfinite::fail, {});
    optimizer_->update({.gradient = gradient,
                        .gradient_scale = judgement.scale,
                        .lr = context.lr,
                        .params_in = committed_,
                        .params_out = out,
                        .state_in = &state_,
                        .state_out = state_out});
    return judgement.norm;
  }

  ParametersOnly model_;
  nn::FlatParams params_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  FormulaEngine engine_;
  const int64_t num_first_, num_second_;
  optim::State state_;
  at::Tensor committed_;
  at::Tensor first_;  // ΣG̃
  double norm_ = 0;
};

TEST(Acco1, AWorldOfOneIsTheSerialReferenceBitForBit) {
  for (const std::string optimizer : {"sgd", "adamw"}) {
    for (const auto& [first_half, second_half] : {std::pair{1, 1}, {2, 2}, {1, 3}}) {
      run_ranks(1, [&](comm::Group& group) {
        Replica::Options options = acco(first_half, second_half);
        options.optimizer = optimizer;
        Replica replica(group, options);
        SerialReference reference(optimizer, first_half, second_half);
        for (int step = 0; step < 20; ++step) {
          reference.step(replica.context());
          const double lr = replica.context().lr;
          const auto report = replica.step();
          ASSERT_TRUE(at::equal(replica.values(), reference.committed())) << step;
          EXPECT_EQ(report.lr, lr);
          EXPECT_EQ(report.grad_norm, reference.norm());
          EXPECT_EQ(report.micro_batches_total, first_half + second_half);
          EXPECT_EQ(report.estimate_share,
                    static_cast<double>(first_half) / (first_half + second_half));
        }
        testing::MemoryCheckpoint checkpoint;
        replica.pause();
        replica.save(0, checkpoint);
        for (size_t i = 0; i < reference.state().names.size(); ++i) {
          EXPECT_TRUE(at::equal(checkpoint.whole("optimizer." + reference.state().names[i]),
                                reference.state().vectors[i]));
        }
        EXPECT_EQ(checkpoint.shared_int("optimizer.step"), reference.state().step);
      });
    }
  }
}

// What the paper's pseudo-code and the authors' code do: the accumulator is kept over the swap
// after a commit, and travels a second time together with the other half. One rank's part; a call
// of step is one commit, without overlap.
class LiteralForm {
 public:
  LiteralForm(comm::Group& group, int64_t first_half, int64_t second_half)
      : group_(group),
        model_(kSizes),
        params_(model_, 1),
        optimizer_(make_optimizer("adamw", params_)),
        engine_(params_, {.replica = group.rank(), .num_replicas = group.size()}),
        num_first_(first_half),
        num_second_(second_half),
        shards_(method::shards_of(params_, group)),
        state_(optimizer_->make_state({shards_.begin(group.rank()), shards_.end(group.rank())})),
        master_(own(params_.values()).clone()) {
    accumulate(num_first_);
  }

  void step(const method::StepContext& context) {
    const at::Tensor first = params_.gradients().clone();  // the communication buffer
    accumulate(num_second_);                               // on top of G̃, at θ
    const at::Tensor estimate = at::empty_like(master_);
    update(first, num_first_, context, estimate, nullptr);
    const at::Tensor both = params_.gradients().clone();
    params_.zero_gradients();
    gather(estimate);
    accumulate(num_first_);  // at θ̃
    update(both, num_first_ + num_second_, context, master_, &state_);
    gather(master_);
  }

  const at::Tensor& committed() const { return params_.values(); }

 private:
  at::Tensor own(const at::Tensor& vector) const {
    return vector.narrow(0, shards_.begin(group_.rank()), shards_.size(group_.rank()));
  }
  void accumulate(int64_t count) {
    for (int64_t i = 0; i < count; ++i) engine_.accumulate();
  }
  void gather(const at::Tensor& shard) { group_.all_gather(shard, params_.values(), shards_); }
  void update(const at::Tensor& sum, int64_t count, const method::StepContext& context,
              const at::Tensor& out, optim::State* state_out) {
    const at::Tensor gradient = at::empty_like(master_);
    group_.reduce_scatter(sum, gradient, shards_);
    at::Tensor words = optim::squared_norm(gradient).to_words();
    group_.all_reduce(words);
    const auto judgement = method::judge(optim::ExactSum::from_words(words), count * group_.size(),
                                         context, method::OnNonfinite::fail, {});
    optimizer_->update({.gradient = gradient,
                        .gradient_scale = judgement.scale,
                        .lr = context.lr,
                        .params_in = master_,
                        .params_out = out,
                        .state_in = &state_,
                        .state_out = state_out});
  }

  comm::Group& group_;
  ParametersOnly model_;
  nn::FlatParams params_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  FormulaEngine engine_;
  const int64_t num_first_, num_second_;
  const comm::Shards shards_;
  optim::State state_;
  at::Tensor master_;
};

// With one micro-batch a half on one rank nothing is added in another order; else the difference is
// that of float32's sums, which AdamW's first steps amplify where the gradient is near zero.
TEST(Acco1, IsTheLiteralFormOfThePaper) {
  for (const auto& [num_ranks, half] : {std::pair{1, 1}, {1, 2}, {2, 1}, {3, 2}}) {
    run_ranks(num_ranks, [half_size = half](comm::Group& group) {
      Replica replica(group, acco(half_size, half_size));
      LiteralForm literal(group, half_size, half_size);
      for (int step = 0; step < 20; ++step) {
        literal.step(replica.context());
        replica.step();
      }
      const at::Tensor difference = (replica.values() - literal.committed()).abs();
      if (group.size() == 1 && half_size == 1) {
        EXPECT_EQ(difference.max().item<double>(), 0);
      } else {
        EXPECT_LT(difference.mean().item<double>(), 1e-6);
        EXPECT_LT(difference.max().item<double>(), 2e-3);
      }
    });
  }
}

// Estimates of few bits: replicas agree on them, and what is committed differs only by gradients
// that were taken a little beside θ̃.
TEST(Acco7, ReplicasAgreeOnEstimatesOfFewBits) {
  constexpr int kRanks = 3;
  const at::Tensor exact = train(kRanks, acco(1, 1), 6).values;
  for (const auto format : {method::DifferenceFormat::bf16, method::DifferenceFormat::int8}) {
    std::vector<std::vector<at::Tensor>> seen(kRanks);
    std::vector<at::Tensor> committed(kRanks);
    run_ranks(kRanks, [&](comm::Group& group) {
      const auto rank = static_cast<size_t>(group.rank());
      Replica* self = nullptr;
      Replica::Options options = acco(1, 1);
      options.sync.acco.estimate_format = format;
      options.formula.before_accumulate = [&] { seen[rank].push_back(self->values().clone()); };
      Replica replica(group, options);
      self = &replica;
      for (int step = 0; step < 6; ++step) {
        const int64_t before = group.bytes_sent();
        replica.step();
        EXPECT_EQ(group.bytes_sent() - before, replica.sync().planned_traffic().bytes_sent);
      }
      committed[rank] = replica.committed();
    });
    for (size_t i = 0; i < seen[0].size(); ++i) {
      EXPECT_TRUE(at::equal(seen[1][i], seen[0][i])) << i;
      EXPECT_TRUE(at::equal(seen[2][i], seen[0][i])) << i;
    }
    const double difference = (committed[0] - exact).abs().max().item<double>();
    EXPECT_GT(difference, 0);
    EXPECT_LT(difference, 2e-4);  // a step moves a parameter by up to 1e-2
  }
}

TEST(Acco2, WithoutDelayItIsZero1BitForBit) {
  for (const int num_ranks : {1, 2, 3, 4, 8}) {
    SCOPED_TRACE(num_ranks);
    Replica::Options options = acco(2, 2);
    options.sync.acco.synchronous_steps = 100;
    Replica::Options zero1 = options;
    zero1.sync.name = "zero1";
    expect_same_bits(train(num_ranks, options, 20), train(num_ranks, zero1, 20), "adamw");
  }
}

// Where parameters do not change the gradient there is nothing to estimate.
TEST(Acco2, WithGradientsThatDoNotDependOnParametersItIsZero1) {
  Replica::Options options = acco(1, 1);
  options.formula.pull = 0;
  Replica::Options zero1 = options;
  zero1.sync.name = "zero1";
  expect_same_bits(train(1, options, 20), train(1, zero1, 20), "adamw");
  // Two ranks sum the same four micro-batches in another order.
  const at::Tensor difference = train(2, options, 20).values - train(2, zero1, 20).values;
  EXPECT_LT(difference.abs().mean().item<double>(), 1e-6);
}

TEST(Acco3, ATentativeStepLeavesNoTrace) {
  run_ranks(2, [](comm::Group& group) {
    ParametersOnly model(kSizes);
    nn::FlatParams params(model, 1);
    const auto optimizer = make_optimizer("adamw", params);
    Shard shard({params, group, *optimizer}, "acco");
    shard.take(params);
    const at::Tensor gradient = at::ones_like(shard.values());
    for (int step = 0; step < 3; ++step) {  // the very first step too
      testing::MemoryCheckpoint before, after;
      const at::Tensor values = shard.values().clone();
      const auto save = [&](testing::MemoryCheckpoint& to) {
        struct Saved : io::Stateful {
          Saved(const Shard& saved, int64_t size) : shard(saved), total(size) {}
          void save(io::StateWriter& writer) const override { shard.save(writer, total); }
          void load(io::StateReader&) override {}
          const Shard& shard;
          int64_t total;
        };
        to.save(0, Saved(shard, params.size()));
      };
      save(before);
      const at::Tensor out = at::empty_like(values);
      shard.estimate(gradient, {.norm = 1, .scale = 0.5}, 0.01, out);
      save(after);
      EXPECT_TRUE(at::equal(shard.values(), values));
      EXPECT_EQ(before.shared_int("optimizer.step"), after.shared_int("optimizer.step"));
      EXPECT_TRUE(before.same_slices(after));
      // and it is the step that a commit makes
      EXPECT_TRUE(at::equal(shard.commit(gradient, {.norm = 1, .scale = 0.5}, 0.01), out));
    }
  });
}

TEST(Acco4, ShardedIsUnshardedBitForBit) {
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{1}, {1009}, kSizes}) {
    for (const int num_ranks : {2, 3, 4, 8}) {
      SCOPED_TRACE(num_ranks);
      Replica::Options alone = acco(num_ranks, num_ranks);
      Replica::Options shared = acco(1, 1);
      alone.sizes = shared.sizes = sizes;
      expect_same_bits(train(num_ranks, shared, 6), train(1, alone, 6), "adamw");
    }
  }
}

// Every rank's count is its own; the update is the mean over micro-batches, not over ranks' means.
TEST(Acco5, UnevenCountsAreWeighed) {
  for (const std::vector<int64_t>& counts : {std::vector<int64_t>{1, 4, 2}, {4, 2, 1}}) {
    const auto run = [&](double scale_of_noise) {
      at::Tensor values;
      run_ranks(3, [&](comm::Group& group) {
        const int64_t count = counts[static_cast<size_t>(group.rank())];
        Replica::Options options = acco(1, 1);
        options.optimizer = "sgd";
        options.clip_norm = 0;
        options.formula.pull = 0;
        options.formula.noise = scale_of_noise;
        options.sync.overlapped = {.k_min = count, .k_max = count};
        Replica replica(group, options);
        const auto report = replica.step();
        EXPECT_EQ(report.micro_batches_total, 14);
        EXPECT_EQ(report.local.micro_batches, 2 * count);
        EXPECT_EQ(report.round_micro_batches, (std::vector<int64_t>{count, count}));
        if (group.rank() == 0) values = replica.values().clone();
      });
      return values;
    };
    // What a serial sum over all 14 micro-batches gives.
    run_ranks(1, [&](comm::Group&) {
      ParametersOnly model(kSizes);
      nn::FlatParams params(model, 1);
      const auto optimizer = make_optimizer("sgd", params);
      optim::State state = optimizer->make_state({0, params.size()});
      for (int rank = 0; rank < 3; ++rank) {
        FormulaEngine engine(params, {.replica = rank, .num_replicas = 3, .pull = 0});
        for (int64_t i = 0; i < 2 * counts[static_cast<size_t>(rank)]; ++i) engine.accumulate();
      }
      optimizer->update({.gradient = params.gradients(),
                         .gradient_scale = 1.0 / 14,
                         .lr = 0.01 / 3,
                         .params_in = params.values(),
                         .params_out = params.values(),
                         .state_in = &state,
                         .state_out = &state});
      const at::Tensor difference = run(1) - params.values();
      EXPECT_LT(difference.abs().max().item<double>(), 1e-6);
    });
  }
}

// On a parabola of curvature λ with learning rate η, a = ηλ decides whether a method converges.
// Some noise, as without it ACCO's estimates are exact from the first on, and cannot grow wrong.
double distance_after(const std::string& sync, double a, int64_t first_half = 1,
                      int64_t second_half = 1, double momentum = 0) {
  double distance = 0;
  run_ranks(1, [&](comm::Group& group) {
    ParametersOnly model({4});
    nn::FlatParams params(model, 1);
    const optim::Sgd optimizer({.momentum = momentum}, method::decay_segments(params));
    FormulaEngine engine(params, {.pull = 1, .noise = 1e-4});
    testing::SyncChoice choice{.name = sync, .acco = {.estimate_micro_batches = first_half}};
    const auto method = testing::make_sync(choice, {params, group, optimizer});
    for (int64_t step = 0; step < 600; ++step) {
      const method::StepContext context{
          .step = step, .lr = a, .accumulation = first_half + second_half};
      method->step(engine, context);
      method->pause(context);
      distance = params.values().abs().max().item<double>();
      method->resume();
      if (!(distance < 1e6)) return;
    }
  });
  return distance;
}

TEST(Acco6, TheEdgeOfStabilityIsWhereTheorySaysIt) {
  EXPECT_LT(distance_after("acco", 1.9), 1e-2);
  EXPECT_GT(distance_after("acco", 2.1), 1e3);
  EXPECT_LT(distance_after("dpu", 0.9), 1e-2);
  EXPECT_GT(distance_after("dpu", 1.1), 1e3);
  EXPECT_LT(distance_after("wp", 0.55), 1e-2);
  EXPECT_GT(distance_after("wp", 0.7), 1e3);
  // A thin estimate half, w = 1/4: stable below 1/(1 - w) = 4/3.
  EXPECT_LT(distance_after("acco", 1.25, 1, 3), 1e-2);
  EXPECT_GT(distance_after("acco", 1.4, 1, 3), 1e3);
}

// With momentum β lockstep converges for a < 2(1 + β). θ̃ - θ is multiplied by -a(1 - w) at each
// commit whatever β is, so ACCO needs a < 1/(1 - w) as well: with β = 0.9 equal halves lose nearly
// half of the region, an estimate half of three quarters loses nothing.
TEST(Acco6, WithMomentumAThickEstimateHalfKeepsTheRegionOfLockstep) {
  EXPECT_LT(distance_after("none", 3.7, 1, 1, 0.9), 1e-2);
  EXPECT_GT(distance_after("none", 3.9, 1, 1, 0.9), 1e3);
  EXPECT_LT(distance_after("acco", 1.9, 2, 2, 0.9), 1e-2);
  EXPECT_GT(distance_after("acco", 2.1, 2, 2, 0.9), 1e3);
  EXPECT_LT(distance_after("acco", 3.5, 3, 1, 0.9), 1e-2);
  EXPECT_GT(distance_after("acco", 3.9, 3, 1, 0.9), 1e3);
}

TEST(Acco7, ReplicasAgreeOnLiveParametersAfterEverySwap) {
  constexpr int kRanks = 3;
  std::vector<std::vector<at::Tensor>> seen(kRanks);
  run_ranks(kRanks, [&](comm::Group& group) {
    auto& own = seen[static_cast<size_t>(group.rank())];
    Replica* self = nullptr;
    Replica::Options options = acco(1, 2);
    options.formula.before_accumulate = [&] { own.push_back(self->values().clone()); };
    Replica replica(group, options);
    self = &replica;
    replica.steps(5);
  });
  ASSERT_EQ(seen[0].size(), 1 + 5 * 3);
  for (size_t i = 0; i < seen[0].size(); ++i) {
    EXPECT_TRUE(at::equal(seen[1][i], seen[0][i])) << i;
    EXPECT_TRUE(at::equal(seen[2][i], seen[0][i])) << i;
  }
  // The estimate is one: near the commit that follows, and not the same.
  EXPECT_FALSE(at::equal(seen[0][3], seen[0][4]));
}

// Two ranks of which the first one's communication thread stands still at its first transfer until
// `goes_on`; reports of one step, by rank.
std::vector<method::StepReport> step_with_slow_link(OverlappedOptions overlapped,
                                                    int64_t num_micro_batches) {
  std::vector<std::unique_ptr<comm::Group>> groups = comm::local_groups("replica", 2);
  std::mutex mutex;
  std::condition_variable changed;
  int64_t num_begun = 0;  // guarded by mutex; of rank 0
  const auto wait_for_micro_batches = [&] {
    std::unique_lock lock(mutex);
    changed.wait_for(lock, std::chrono::seconds(20), [&] { return num_begun > num_micro_batches; });
  };
  groups[0] = std::make_unique<comm::Faulty>(
      std::move(groups[0]),
      comm::Fault{.kind = comm::Fault::Kind::call, .action = wait_for_micro_batches});
  std::vector<method::StepReport> reports(2);
  {
    std::vector<std::jthread> threads;
    for (size_t rank = 0; rank < 2; ++rank) {
      threads.emplace_back([&, rank] {
        at::set_num_threads(1);
        Replica::Options options = acco(1, 1);
        options.sync.overlapped = overlapped;
        options.formula.before_accumulate = [&] {
          const std::lock_guard lock(mutex);
          num_begun += rank == 0 ? 1 : 0;
          changed.notify_all();
        };
        Replica replica(*groups[rank], options);
        reports[rank] = replica.step();
      });
    }
  }
  return reports;
}

TEST(Acco8, ComputesOnWhileCommunicationIsUnderWay) {
  // One to prime the first half, then as many as it takes.
  const auto reports = step_with_slow_link({}, 1 + 6);
  EXPECT_GE(reports[0].round_micro_batches[1], 6);
  EXPECT_GE(reports[1].round_micro_batches[1], 1);
  EXPECT_EQ(reports[0].micro_batches_total,
            reports[0].local.micro_batches + reports[1].local.micro_batches);
  EXPECT_EQ(reports[0].estimate_share, 2.0 / static_cast<double>(reports[0].micro_batches_total));
}

TEST(Acco8, WaitsAtItsUpperBound) {
  const auto reports = step_with_slow_link({.k_min = 2, .k_max = 3}, 2 + 2);
  EXPECT_EQ(reports[0].round_micro_batches[0], 2);
  EXPECT_EQ(reports[0].round_micro_batches[1], 3);
}

TEST(Acco10, AnErrorOfTheCommunicationThreadComesOutAtTheNextMicroBatch) {
  std::vector<std::unique_ptr<comm::Group>> groups = comm::local_groups("replica", 2);
  // The send, which is what is waited for first: nobody will take it.
  comm::Faulty broken(std::move(groups[0]), {.kind = comm::Fault::Kind::fail, .at_transfer = 1});
  Replica::Options options = acco(1, 1);
  options.sync.overlapped = {};  // dynamic: the round goes on until communication is over
  Replica replica(broken, options);
  EXPECT_THROW(replica.step(), CommError);
}

std::string complaint(const std::string& keys, int64_t accumulation = 2) {
  return testing::complaint(
      keys, [&](io::Section& section) { AccoOptions::read(section, accumulation); });
}

TEST(AccoOptions, AreReadAndHeldAgainstTheirBounds) {
  EXPECT_EQ(complaint(""), "no error");
  EXPECT_EQ(complaint("", 1), "no error");
  EXPECT_EQ(complaint("counts = 'fixed'\nestimate_micro_batches = 3", 4), "no error");
  EXPECT_THAT(complaint("counts = 'fixed'", 1), HasSubstr("set it to 2 or more"));
  EXPECT_THAT(complaint("counts = 'fixed'\nestimate_micro_batches = 4", 4),
              HasSubstr("estimate_micro_batches"));
  EXPECT_THAT(complaint("k_min = 3\nk_max = 2"),
              HasSubstr("sync.k_max is 2, below sync.k_min = 3"));
  EXPECT_THAT(complaint("counts = 'fixed'\nk_max = 2"), HasSubstr("sync.k_max bounds dynamic"));
  EXPECT_THAT(complaint("estimate_micro_batches = 3", 4), HasSubstr("fixed counts"));
  EXPECT_THAT(complaint("estimate_scale = -1"), HasSubstr("estimate_scale"));
}

}  // namespace
}  // namespace outstep::sync
