#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "outstep/comm/local_group.h"
#include "outstep/method/layout.h"
#include "outstep/method/testing.h"
#include "outstep/optim/adamw.h"
#include "outstep/optim/schedule.h"
#include "outstep/optim/sgd.h"
#include "outstep/sync/acco.h"
#include "outstep/sync/ddp.h"
#include "outstep/sync/none.h"
#include "outstep/sync/one_step_late.h"
#include "outstep/sync/zero1.h"

// What the tests of this room share: a small run of any synchronizer, with ranks as threads.

namespace outstep::sync::testing {

using method::testing::FormulaEngine;
using method::testing::FormulaOptions;
using method::testing::MemoryCheckpoint;
using method::testing::ParametersOnly;

inline std::unique_ptr<optim::Optimizer> make_optimizer(const std::string& name,
                                                        const nn::FlatParams& params) {
  auto segments = method::decay_segments(params);
  if (name == "sgd") {
    const optim::SgdOptions options{.momentum = 0.9, .weight_decay = 0.1};
    return std::make_unique<optim::Sgd>(options, std::move(segments));
  }
  return std::make_unique<optim::Adamw>(optim::AdamwOptions{.weight_decay = 0.1},
                                        std::move(segments));
}

// What reading options from these keys of [sync] complains about, unknown ones included.
inline std::string complaint(const std::string& keys,
                             const std::function<void(io::Section&)>& read) {
  auto settings = io::Settings::from_text("[sync]\n" + keys, "my.toml");
  io::Section section = settings.section("sync");
  try {
    read(section);
    settings.require_all_used();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

struct SyncChoice {
  std::string name = "none";
  comm::Wire wire = comm::Wire::exact;
  method::OnNonfinite on_nonfinite = method::OnNonfinite::fail;
  // acco, dpu and wp; wire and on_nonfinite are filled in.
  OverlappedOptions overlapped = {.has_fixed_counts = true};
  AccoOptions acco = {};  // overlapped is filled in
};

inline std::unique_ptr<method::Synchronizer> make_sync(const SyncChoice& choice, Parts parts) {
  if (choice.name == "ddp") {
    // Small buckets, so that small models have several.
    return std::make_unique<Ddp>(
        parts, DdpOptions{.buckets = {.bucket_bytes = 4096, .first_bucket_bytes = 64},
                          .wire = choice.wire,
                          .on_nonfinite = choice.on_nonfinite});
  }
  if (choice.name == "zero1" || choice.name == "zero1_overlap") {
    return std::make_unique<Zero1>(
        parts, Zero1Options{.wire = choice.wire,
                            .on_nonfinite = choice.on_nonfinite,
                            .overlap = choice.name != "zero1",
                            .buckets = {.bucket_bytes = 4096, .first_bucket_bytes = 64}});
  }
  OverlappedOptions overlapped = choice.overlapped;
  overlapped.wire = choice.wire;
  overlapped.on_nonfinite = choice.on_nonfinite;
  if (choice.name == "acco") {
    AccoOptions acco = choice.acco;
    acco.overlapped = overlapped;
    return std::make_unique<Acco>(parts, acco);
  }
  if (choice.name == "dpu" || choice.name == "wp") {
    const auto next =
        choice.name == "dpu" ? NextGradient::at_old_parameters : NextGradient::at_prediction;
    return std::make_unique<OneStepLate>(parts, next, overlapped);
  }
  return std::make_unique<None>(parts, NoneOptions{.on_nonfinite = choice.on_nonfinite});
}

// One replica: everything a synchronizer needs, on the thread that plays the rank.
class Replica {
 public:
  struct Options {
    SyncChoice sync = {};
    std::string optimizer = "adamw";
    std::vector<int64_t> sizes = {100};
    int64_t num_buffers = 0;
    int64_t accumulation = 1;
    double clip_norm = 0;
    FormulaOptions formula = {};  // replica and num_replicas are filled in
  };

  Replica(comm::Group& group, Options options)
      : options_(fill_in(std::move(options), group)),
        model_(options_.sizes, options_.num_buffers),
        params_(model_, 1),
        optimizer_(make_optimizer(options_.optimizer, params_)),
        engine_(params_, options_.formula),
        sync_(make_sync(options_.sync, {params_, group, *optimizer_})) {}

  method::StepReport step() {
    reports_.push_back(sync_->step(engine_, context()));
    ++step_;
    return reports_.back();
  }
  // As the trainer does before it evaluates or saves.
  void pause() { sync_->pause(context()); }
  void steps(int count) {
    for (int i = 0; i < count; ++i) step();
  }

  // Paused. Parameters are train/'s to save; here they travel beside the checkpoint.
  void save(int rank, MemoryCheckpoint& checkpoint) const {
    checkpoint.save(rank, *sync_);
    checkpoint.save(rank, engine_);
  }
  void load(int rank, const MemoryCheckpoint& checkpoint, const at::Tensor& values, int64_t step,
            bool is_same_world = true) {
    checkpoint.load(rank, *sync_, is_same_world);
    params_.values().copy_(values);
    step_ = step;
  }

  const at::Tensor& values() const { return params_.values(); }
  at::Tensor committed() {
    pause();
    const at::Tensor values = params_.values().clone();
    sync_->resume();
    return values;
  }
  nn::FlatParams& params() { return params_; }
  FormulaEngine& engine() { return engine_; }
  method::Synchronizer& sync() { return *sync_; }
  const std::vector<method::StepReport>& reports() const { return reports_; }

  method::StepContext context() const {
    return {.step = step_,
            .lr = schedule_.at(static_cast<double>(step_)),
            .accumulation = options_.accumulation,
            .clip_norm = options_.clip_norm};
  }

 private:
  static Options fill_in(Options options, const comm::Group& group) {
    options.formula.replica = group.rank();
    options.formula.num_replicas = group.size();
    return options;
  }

  Options options_;
  ParametersOnly model_;
  nn::FlatParams params_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  FormulaEngine engine_;
  optim::Schedule schedule_{.lr = 0.01, .warmup_steps = 2, .total_steps = 10};
  int64_t step_ = 0;
  std::vector<method::StepReport> reports_;
  std::unique_ptr<method::Synchronizer> sync_;
};

// What a run leaves: rank 0's parameters (all ranks are checked to agree), norms, and the
// optimizer's state.
struct Outcome {
  at::Tensor values;
  std::vector<double> norms;
  std::shared_ptr<MemoryCheckpoint> checkpoint = std::make_shared<MemoryCheckpoint>();
};

// Bodies run on threads, and bits are compared.
inline void run_ranks(int num_ranks, const std::function<void(comm::Group&)>& body) {
  at::set_num_threads(1);
  comm::run_local_ranks(num_ranks, [&](comm::Group& group) {
    at::set_num_threads(1);
    body(group);
  });
}

inline Outcome train(int num_ranks, const Replica::Options& options, int num_steps) {
  Outcome outcome;
  std::vector<at::Tensor> values(static_cast<size_t>(num_ranks));
  run_ranks(num_ranks, [&](comm::Group& group) {
    Replica replica(group, options);
    replica.steps(num_steps);
    replica.pause();
    replica.save(group.rank(), *outcome.checkpoint);
    values[static_cast<size_t>(group.rank())] = replica.values().clone();
    if (group.rank() == 0) {
      for (const auto& report : replica.reports()) outcome.norms.push_back(report.grad_norm);
    }
  });
  for (const at::Tensor& other : values) EXPECT_TRUE(at::equal(other, values[0]));
  outcome.values = values[0];
  return outcome;
}

inline void expect_same_bits(const Outcome& a, const Outcome& b, const std::string& optimizer) {
  EXPECT_TRUE(at::equal(a.values, b.values));
  EXPECT_EQ(a.norms, b.norms);
  const auto names = optimizer == "sgd" ? std::vector<std::string>{"momentum"}
                                        : std::vector<std::string>{"exp_avg", "exp_avg_sq"};
  for (const std::string& name : names) {
    EXPECT_TRUE(at::equal(a.checkpoint->whole("optimizer." + name),
                          b.checkpoint->whole("optimizer." + name)))
        << name;
  }
}

}  // namespace outstep::sync::testing
