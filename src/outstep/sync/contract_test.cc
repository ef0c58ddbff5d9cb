#include <atomic>
#include <chrono>
#include <cmath>
#include <string>
#include <tuple>

#include "outstep/sync/testing.h"

// What every synchronizer promises, with every optimizer.

namespace outstep::sync {
namespace {

using testing::complaint;
using ::testing::HasSubstr;
using testing::MemoryCheckpoint;
using testing::Outcome;
using testing::Replica;
using testing::run_ranks;
using testing::train;

struct Method {
  std::string name;
  int num_ranks;
};
void PrintTo(const Method& method, std::ostream* out) {
  *out << method.name << " on " << method.num_ranks;
}
const Method kMethods[] = {{"none", 1},
                           {"ddp", 1},
                           {"ddp", 2},
                           {"ddp", 5},
                           {"zero1", 1},
                           {"zero1", 2},
                           {"zero1", 5},
                           {"zero1_overlap", 1},
                           {"zero1_overlap", 2},
                           {"zero1_overlap", 5},
                           {"acco", 1},
                           {"acco", 2},
                           {"acco", 5},
                           {"dpu", 1},
                           {"dpu", 2},
                           {"dpu", 5},
                           {"wp", 1},
                           {"wp", 2},
                           {"wp", 5}};

class SynchronizerContract : public ::testing::TestWithParam<std::tuple<Method, std::string>> {
 protected:
  int num_ranks() const { return std::get<0>(GetParam()).num_ranks; }
  const std::string& name() const { return std::get<0>(GetParam()).name; }
  // Computes while it communicates: a gradient is pending between two steps.
  bool is_overlapped() const { return name() == "acco" || name() == "dpu" || name() == "wp"; }
  // Rounds a step; in the very first step a gradient is computed that has nothing to overlap with.
  int num_rounds() const { return name() == "acco" ? 2 : 1; }
  Replica::Options options() const {
    const auto& [method, optimizer] = GetParam();
    return {.sync = {.name = method.name},
            .optimizer = optimizer,
            .sizes = {257, 31, 4099, 30'000},
            .num_buffers = 2,
            .accumulation = 2,
            .clip_norm = 0.5};
  }
  void expect_resumes_to_the_same(const Replica::Options& options) const;
  // Runs a body with a replica on every rank.
  void with_replicas(const Replica::Options& options,
                     const std::function<void(comm::Group&, Replica&)>& body) const {
    run_ranks(num_ranks(), [&](comm::Group& group) {
      Replica replica(group, options);
      body(group, replica);
    });
  }
};

TEST_P(SynchronizerContract, SaveLoadContinueEqualsNotStopping) {
  expect_resumes_to_the_same(options());
}

TEST_P(SynchronizerContract, SaveLoadContinueEqualsNotStoppingWithRoundedLiveParameters) {
  if (!is_overlapped()) return;
  Replica::Options rounded = options();
  rounded.sync.overlapped.live = comm::Wire::bf16;
  expect_resumes_to_the_same(rounded);
  rounded.sync.acco.estimate_format = method::DifferenceFormat::int8;
  expect_resumes_to_the_same(rounded);
  rounded.sync.acco.synchronous_steps = 4;  // beyond where it stops
  expect_resumes_to_the_same(rounded);
}

// Evaluating in between changes nothing; what is evaluated is exact, and so after loading.
TEST_P(SynchronizerContract, PausingChangesNothing) {
  Replica::Options rounded = options();
  rounded.sync.overlapped.live = comm::Wire::bf16;
  const Outcome plain = train(num_ranks(), rounded, 4);
  with_replicas(rounded, [&](comm::Group& group, Replica& replica) {
    replica.committed();  // before the first step
    for (int step = 0; step < 4; ++step) {
      replica.step();
      replica.committed();
      replica.committed();
    }
    EXPECT_TRUE(at::equal(replica.committed(), plain.values));
    Replica loaded(group, rounded);
    loaded.load(group.rank(), *plain.checkpoint, plain.values, 4);
    loaded.pause();
    EXPECT_TRUE(at::equal(loaded.values(), plain.values));
  });
}

// Mixing that writes nothing changes nothing; what it writes is committed, on all replicas.
TEST_P(SynchronizerContract, MixingBringsTheCommittedParametersAndTakesWhatTheyBecome) {
  for (const comm::Wire live : {comm::Wire::exact, comm::Wire::bf16}) {
    Replica::Options options = this->options();
    options.sync.overlapped.live = live;
    const Outcome plain = train(num_ranks(), options, 4);
    std::vector<at::Tensor> after(static_cast<size_t>(num_ranks()));
    with_replicas(options, [&](comm::Group& group, Replica& replica) {
      for (int step = 0; step < 4; ++step) {
        replica.step();
        replica.sync().begin_mixing(replica.context());
        if (step == 3) EXPECT_TRUE(at::equal(replica.values(), plain.values));
        replica.sync().end_mixing();
      }
      replica.sync().begin_mixing(replica.context());
      replica.values().mul_(-2);
      for (optim::State* state : replica.sync().optimizer_states()) state->vectors[0].zero_();
      replica.sync().end_mixing();
      EXPECT_TRUE(at::equal(replica.committed(), plain.values * -2));
      replica.step();
      after[static_cast<size_t>(group.rank())] = replica.committed();
      EXPECT_LT(
          (after[static_cast<size_t>(group.rank())] + plain.values * 2).abs().max().item<double>(),
          1);
    });
    for (const at::Tensor& values : after) EXPECT_TRUE(at::equal(values, after[0]));
  }
}

void SynchronizerContract::expect_resumes_to_the_same(const Replica::Options& options) const {
  const Outcome half = train(num_ranks(), options, 3);
  const Outcome whole = train(num_ranks(), options, 6);
  MemoryCheckpoint end;
  with_replicas(options, [&](comm::Group& group, Replica& replica) {
    half.checkpoint->load(group.rank(), replica.engine());
    replica.load(group.rank(), *half.checkpoint, half.values, 3);
    replica.steps(3);
    replica.pause();
    EXPECT_TRUE(at::equal(replica.values(), whole.values));
    replica.save(group.rank(), end);
  });
  const char* vector = options.optimizer == "sgd" ? "optimizer.momentum" : "optimizer.exp_avg";
  EXPECT_TRUE(at::equal(end.whole(vector), whole.checkpoint->whole(vector)));
}

TEST_P(SynchronizerContract, ReportsWhatItDid) {
  with_replicas(options(), [&](comm::Group& group, Replica& replica) {
    const auto first = replica.step();
    const auto report = replica.step();
    EXPECT_EQ(report.local.micro_batches, 2);
    EXPECT_EQ(report.local.samples, 8);
    EXPECT_EQ(report.local.units, 16);
    EXPECT_EQ(report.local.loss_sum, 1);
    EXPECT_EQ(report.local.num_losses, 2);
    // Of acco the first half is of before the last commit, of dpu and wp everything.
    const int64_t num_stale = !is_overlapped() ? 0 : num_rounds() == 2 ? 1 : 2;
    EXPECT_EQ(first.local.staleness_sum, 0);
    EXPECT_EQ(report.local.staleness_sum, num_stale);
    EXPECT_EQ(report.local.staleness_max, num_stale > 0 ? 1 : 0);
    EXPECT_EQ(report.round_micro_batches.size(), is_overlapped() ? num_rounds() : 0);
    EXPECT_EQ(report.estimate_share, name() == "acco" ? 0.5 : 0);
    EXPECT_EQ(report.micro_batches_total, 2 * group.size());
    EXPECT_GT(report.grad_norm, 0);
    EXPECT_DOUBLE_EQ(first.lr, 0.01 / 3);  // warming up
    EXPECT_DOUBLE_EQ(report.lr, 0.01 * 2 / 3);
    EXPECT_FALSE(report.is_skipped);
    EXPECT_GE(report.communication_seconds, 0);
    EXPECT_GE(report.idle_seconds, 0);
  });
}

TEST_P(SynchronizerContract, SendsWhatTheFormulaSays) {
  for (const comm::Wire wire : {comm::Wire::exact, comm::Wire::bf16}) {
    Replica::Options with_wire = options();
    with_wire.sync.wire = wire;
    with_replicas(with_wire, [&](comm::Group& group, Replica& replica) {
      const int64_t before = group.bytes_sent();
      const auto report = replica.step();
      if (name() == "zero1_overlap") replica.pause();  // parameters are still on their way
      const auto traffic = replica.sync().planned_traffic();
      EXPECT_EQ(report.bytes_sent, traffic.bytes_sent);
      EXPECT_EQ(group.bytes_sent() - before, traffic.bytes_sent);
      EXPECT_LE(traffic.overlapped_bytes, traffic.bytes_sent);
      EXPECT_EQ(traffic.bytes_sent > 0, group.size() > 1);
    });
  }
}

TEST_P(SynchronizerContract, HoldsTheOptimizersStateItSays) {
  std::atomic<int64_t> total = 0;
  int64_t whole = 0;
  with_replicas(options(), [&](comm::Group& group, Replica& replica) {
    total += replica.sync().optimizer_bytes();
    const int64_t size = replica.params().size();
    const int64_t shard = method::shards_of(replica.params(), group).size(group.rank());
    const int64_t num_shards = name() == "dpu" ? 0 : 1;  // ΣG̃ of acco, θ̃ of wp
    EXPECT_EQ(replica.sync().communication_bytes(),
              is_overlapped() ? 4 * size + 4 * num_shards * shard : 0);
    if (group.rank() == 0) {
      whole = size * ((options().optimizer == "sgd" ? 4 : 8) + (is_overlapped() ? 4 : 0));
    }
  });
  EXPECT_EQ(total, options().sync.name == "ddp" ? whole * num_ranks() : whole);
}

TEST_P(SynchronizerContract, RefusesAGradientThatIsNotFinite) {
  Replica::Options bad = options();
  bad.formula.not_finite_at = 2 * num_ranks() * 2 - 1;  // the last rank's last one of step 1
  with_replicas(bad, [&](comm::Group&, Replica& replica) {
    replica.step();
    try {
      replica.step();
      ADD_FAILURE() << "no error";
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), HasSubstr("the gradient of step 1 is not finite"));
    }
  });
}

TEST_P(SynchronizerContract, SkipsAGradientThatIsNotFiniteIfTold) {
  Replica::Options bad = options();
  bad.formula.not_finite_at = 2 * num_ranks() * 2 - 1;
  bad.sync.on_nonfinite = method::OnNonfinite::skip;
  with_replicas(bad, [&](comm::Group&, Replica& replica) {
    replica.step();
    const at::Tensor before = replica.committed(),
                     buffers_before = replica.params().buffers().clone();
    const auto report = replica.step();
    EXPECT_TRUE(report.is_skipped);
    EXPECT_TRUE(std::isinf(report.grad_norm));
    EXPECT_TRUE(at::equal(replica.committed(), before));
    // Where a gradient was pending the buffers are of before it.
    EXPECT_EQ(at::equal(replica.params().buffers(), buffers_before), !is_overlapped());
    EXPECT_FALSE(replica.params().buffers().isnan().any().item<bool>());
    const at::Tensor buffers_after = replica.params().buffers().clone();
    EXPECT_FALSE(replica.step().is_skipped);
    EXPECT_FALSE(at::equal(replica.committed(), before));
    EXPECT_FALSE(replica.values().isnan().any().item<bool>());
    EXPECT_FALSE(at::equal(replica.params().buffers(), buffers_after));
    EXPECT_FALSE(replica.params().buffers().isnan().any().item<bool>());
  });
}

TEST(Acco, ASkippedSynchronousStepPutsBuffersBack) {
  Replica::Options options{.sync = {.name = "acco", .acco = {.synchronous_steps = 9}},
                           .num_buffers = 2,
                           .formula = {.not_finite_at = 1}};
  options.sync.on_nonfinite = method::OnNonfinite::skip;
  run_ranks(1, [&](comm::Group& group) {
    Replica replica(group, options);
    replica.step();
    const at::Tensor buffers = replica.params().buffers().clone();
    EXPECT_TRUE(replica.step().is_skipped);
    EXPECT_TRUE(at::equal(replica.params().buffers(), buffers));
  });
}

// A run of zero1 goes on with acco, that one on another number of ranks, and back.
TEST(Resharding, OverlappedMethodsReadOtherMethodsAndWorlds) {
  struct Leg {
    const char* sync;
    int num_ranks;
  };
  const std::vector<int64_t> sizes = {257, 31, 4099, 16, 3};
  Outcome last;
  int64_t step = 0;
  for (const Leg& leg : {Leg{"zero1", 2},
                         {"acco", 2},
                         {"acco", 4},
                         {"acco", 8},
                         {"zero1_overlap", 2},
                         {"wp", 3},
                         {"dpu", 1},
                         {"ddp", 2}}) {
    SCOPED_TRACE(leg.sync + std::to_string(leg.num_ranks));
    Outcome next;
    run_ranks(leg.num_ranks, [&](comm::Group& group) {
      Replica replica(group, {.sync = {.name = leg.sync}, .sizes = sizes, .accumulation = 2});
      if (step > 0) replica.load(group.rank(), *last.checkpoint, last.values, step, false);
      const int64_t before = step;
      const auto first = replica.step();
      // acco's estimate half that another world left goes into the first commit.
      if (std::string(leg.sync) == "acco" && leg.num_ranks > 2) {
        EXPECT_EQ(first.micro_batches_total, leg.num_ranks / 2 + leg.num_ranks) << before;
      }
      replica.step();
      replica.pause();
      replica.save(group.rank(), *next.checkpoint);
      if (group.rank() == 0) next.values = replica.values().clone();
    });
    EXPECT_FALSE(next.values.isnan().any().item<bool>());
    last = next;
    step += 2;
  }
}

// One rank's engine fails in the middle of backward: its own error comes out there, and the others
// leave with a communication error at once, not at their deadline.
TEST_P(SynchronizerContract, AnEngineThatFailsEndsEveryRank) {
  Replica::Options bad = options();
  // The last rank's last one of step 1; dpu and wp have by then drawn a whole step ahead.
  bad.formula.throws_at = (is_overlapped() && num_rounds() == 1 ? 3 : 2) * num_ranks() * 2 - 1;
  const auto begin = std::chrono::steady_clock::now();
  with_replicas(bad, [&](comm::Group& group, Replica& replica) {
    replica.step();
    if (group.rank() == group.size() - 1) {
      EXPECT_THROW(replica.step(), std::runtime_error);
      EXPECT_FALSE(replica.engine().announces());
    } else {
      // Who computes ahead may have got all that this step needs before the other failed.
      EXPECT_THROW(replica.steps(2), CommError);
    }
  });
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(15));
}

// A group that is aborted from elsewhere (a signal, another thread's error) while the rank
// computes.
TEST_P(SynchronizerContract, AnAbortedGroupEndsEveryRank) {
  if (num_ranks() == 1) return;
  with_replicas(options(), [&](comm::Group& group, Replica& replica) {
    replica.step();
    if (group.rank() == 0) group.abort();
    EXPECT_THROW(replica.steps(2), CommError);
    EXPECT_FALSE(replica.engine().announces());
  });
}

TEST_P(SynchronizerContract, LeavesPaddingZero) {
  with_replicas(options(), [&](comm::Group&, Replica& replica) {
    replica.steps(2);
    int64_t end = 0;
    for (const auto& entry : replica.params().entries()) {
      EXPECT_EQ(replica.values().slice(0, end, entry.offset).abs().sum().item<float>(), 0);
      end = entry.offset + entry.numel;
    }
  });
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<Method, std::string>>& info) {
  const auto& [method, optimizer] = info.param;
  return method.name + std::to_string(method.num_ranks) + "_" + optimizer;
}
INSTANTIATE_TEST_SUITE_P(Sync, SynchronizerContract,
                         ::testing::Combine(::testing::ValuesIn(kMethods),
                                            ::testing::Values("sgd", "adamw")),
                         name_of);

// A checkpoint of 2 ranks goes on at 3, that one's at 1, and of one method under the other: each
// time as one rank would that accumulates the same micro-batches.
TEST(Resharding, AnotherWorldAndMethodGoOnBitForBit) {
  const std::vector<int64_t> sizes = {257, 31, 4099, 16, 3};
  const Replica::Options zero1{.sync = {.name = "zero1"}, .sizes = sizes};
  const Replica::Options overlapped{.sync = {.name = "zero1_overlap"}, .sizes = sizes};
  const Replica::Options ddp{.sync = {.name = "ddp"}, .sizes = sizes};
  const Replica::Options none{.sizes = sizes};
  struct Leg {
    Replica::Options options;
    int num_ranks;
  };
  Outcome expected, found;
  int64_t step = 0, num_drawn = 0;
  for (const Leg& leg : {Leg{zero1, 2}, Leg{overlapped, 3}, Leg{ddp, 2}, Leg{zero1, 8},
                         Leg{overlapped, 2}, Leg{none, 1}}) {
    SCOPED_TRACE(leg.options.sync.name + " on " + std::to_string(leg.num_ranks));
    const auto go_on = [&](const Replica::Options& options, int num_ranks, const Outcome& from) {
      Outcome to;
      run_ranks(num_ranks, [&](comm::Group& group) {
        Replica replica(group, options);
        if (step > 0) replica.load(group.rank(), *from.checkpoint, from.values, step);
        replica.engine().seek(num_drawn / num_ranks);
        replica.steps(2);
        replica.pause();
        replica.save(group.rank(), *to.checkpoint);
        if (group.rank() == 0) to.values = replica.values().clone();
      });
      return to;
    };
    Replica::Options alone = none;
    alone.accumulation = leg.num_ranks;
    num_drawn = step * 24;  // a number that every world divides
    expected = go_on(alone, 1, expected);
    found = go_on(leg.options, leg.num_ranks, found);
    testing::expect_same_bits(found, expected, "adamw");
    step += 2;
  }
}

TEST(None, RefusesSeveralReplicas) {
  run_ranks(2, [](comm::Group& group) {
    try {
      Replica replica(group, {});
      ADD_FAILURE() << "no error";
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), HasSubstr("sync \"none\" trains one replica, mesh.replicas is 2"));
    }
  });
}

// An optimizer that must see whole tensors.
class WholeTensors : public optim::Sgd {
 public:
  using Sgd::Sgd;
  bool cuts_anywhere() const override { return false; }
};

TEST(Zero1, RefusesAnOptimizerThatCannotBeCut) {
  run_ranks(1, [](comm::Group& group) {
    testing::ParametersOnly model({4});
    nn::FlatParams params(model, 1);
    const WholeTensors optimizer({}, {});
    try {
      const Zero1 sync({params, group, optimizer}, {});
      ADD_FAILURE() << "no error";
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), HasSubstr("can only be cut at tensor borders; use sync \"ddp\""));
    }
  });
}

TEST(SyncOptions, AreReadAndHeldAgainstTheirBounds) {
  const auto ddp = [](io::Section& section) { DdpOptions::read(section); };
  const auto zero1 = [](io::Section& section) { Zero1Options::read(section); };
  const auto none = [](io::Section& section) { NoneOptions::read(section); };
  EXPECT_EQ(complaint("bucket_bytes = 1000\nwire = 'bf16'", ddp), "no error");
  EXPECT_EQ(complaint("wire = 'bf16'\non_nonfinite = 'skip'", zero1), "no error");
  EXPECT_THAT(complaint("bucket_bytes = 0", ddp), HasSubstr("bucket_bytes"));
  EXPECT_THAT(complaint("first_bucket_bytes = 9999999\nbucket_bytes = 100", ddp),
              HasSubstr("first_bucket_bytes"));
  EXPECT_THAT(complaint("wire = 'fp16'", zero1), HasSubstr("bf16"));
  EXPECT_THAT(complaint("on_nonfinite = 'ignore'", none), HasSubstr("skip"));
  EXPECT_THAT(complaint("wire = 'bf16'", none), HasSubstr("unknown key \"wire\""));
}

}  // namespace
}  // namespace outstep::sync
