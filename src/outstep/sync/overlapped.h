#pragma once

#include <string>

#include "outstep/io/settings.h"
#include "outstep/method/committing.h"
#include "outstep/method/rounds.h"
#include "outstep/sync/parts.h"
#include "outstep/sync/recorded_counts.h"

// What the methods that compute while they communicate share beside method::Rounds: acco and
// delayed (dpu, wp).

namespace outstep::sync {

struct OverlappedOptions {
  // "fixed": every rank adds train.accumulation micro-batches a step, and a run can be repeated bit
  // for bit. "dynamic": as many as fit while communication is under way, within the bounds.
  bool has_fixed_counts = false;
  int64_t k_min = 1;                    // micro-batches a rank and round, at least
  int64_t k_max = 0;                    // at most; a rank that has added so many waits. 0: no bound
  comm::Wire wire = comm::Wire::exact;  // of gradients
  // Of parameters: "bf16" computes at rounded ones, the shards stay in float32.
  comm::Wire live = comm::Wire::exact;
  method::OnNonfinite on_nonfinite = method::OnNonfinite::fail;
  // The metrics of a run with dynamic counts, whose counts are repeated; empty: none. recorded is
  // what this rank did in it.
  std::string replay = "";
  RecordedCounts recorded = {};

  // counts, k_min, k_max, wire, live, on_nonfinite and replay of [sync]. Throws ConfigError for
  // k_max below k_min, and for bounds or a replay beside fixed counts. Does not read the record.
  static OverlappedOptions read(io::Section& section);
  // Reads what rank `rank` did in the run to be replayed, if any. num_rounds: of a step. Throws
  // DataError, ConfigError.
  void read_record(int rank, int num_ranks, size_t num_rounds);

  // Of the round in which the gradient of that round of that step is added. count: its
  // micro-batches where they are fixed.
  method::RoundLength length(int64_t count, int64_t step = 0, size_t round = 0) const;
};

// The own shard: committed parameters in full precision and the optimizer's state. One thread at a
// time: the communication thread during a round, else the calling one.
class Shard {
 public:
  // Throws ConfigError if the optimizer cannot be cut at any element.
  Shard(const Parts& parts, const std::string& sync);

  // Takes the committed parameters from the live ones, where they are not known yet: at the start
  // and after load.
  void take(const nn::FlatParams& params);

  // θ ← Opt(θ, s; gradient), unless the judgement says to skip it; returns θ.
  const at::Tensor& commit(const at::Tensor& gradient, const method::Judgement& judgement,
                           double lr);
  // out ← Opt(θ, s; gradient), which leaves no trace in θ and s; θ itself if skipped. out must not
  // overlap the gradient.
  void estimate(const at::Tensor& gradient, const method::Judgement& judgement, double lr,
                const at::Tensor& out) const;

  // Takes the live parameters, which were the committed ones and may have been changed since. Where
  // a prediction of them is given, it changes by as much.
  void adopt(const nn::FlatParams& params, const at::Tensor* predicted);

  const at::Tensor& values() const { return values_; }
  optim::State& state() { return state_; }
  int64_t num_bytes() const;  // of parameters and state

  void save(io::StateWriter& writer, int64_t total) const { state_.save(writer, total); }
  void load(io::StateReader& reader, int64_t total);

 private:
  const optim::Optimizer& optimizer_;
  optim::State state_;
  at::Tensor values_;  // [shard] θ
  bool is_known_ = false;
};

// A synchronizer of rounds but for its policy: the shard, the rounds, and what is live between two
// steps, which may be other than the committed parameters (rounded, or a prediction).
class Overlapped : public method::Synchronizer {
 public:
  method::StepReport step(method::GradientEngine& engine, const method::StepContext& context) final;
  void pause(const method::StepContext& context) final;
  void resume() final;
  void begin_mixing(const method::StepContext& context) final;
  void end_mixing() final;
  std::vector<optim::State*> optimizer_states() final { return {&shard_.state()}; }

  const std::string& name() const final { return name_; }
  int64_t optimizer_bytes() const final { return shard_.num_bytes(); }
  int64_t communication_bytes() const override { return rounds_.communication_bytes(); }
  method::Traffic planned_traffic() const override { return rounds_.traffic(); }

  void save(io::StateWriter& writer) const final;
  void load(io::StateReader& reader) final;

 protected:
  // estimate_format: of the rounds that gather an estimate.
  Overlapped(const Parts& parts, std::string name, const OverlappedOptions& options,
             method::DifferenceFormat estimate_format = method::DifferenceFormat::none);

  // The rounds of one commit. Fills in the report's contribution, counts and share.
  virtual void run_rounds(method::GradientEngine& engine, const method::StepContext& context,
                          method::StepReport& report) = 0;
  // The shard of what is live between steps, if that is not the committed one.
  virtual const at::Tensor* prediction() const { return nullptr; }

  // On the communication thread: judges the gradient of `count` micro-batches by its norm.
  method::Judgement judge(const at::Tensor& gradient, int64_t count,
                          const method::StepContext& context, const method::Contribution& local);
  // Whose gradient was computed before the last commit.
  static void count_as_stale(method::Contribution& contribution);

  const Parts parts_;
  const OverlappedOptions options_;
  // The communication thread's during a round, else the calling thread's.
  Shard shard_;
  method::Judgement judgement_;  // of the commit
  int64_t num_committed_ = 0;    // micro-batches in it, of all replicas

 private:
  bool is_live_exact() const;
  void make_live_exact();

  const std::string name_;
  int64_t bytes_told_ = 0;     // of the group's, in reports
  bool has_gathered_ = false;  // the live parameters are what a round has brought
  bool is_paused_ = false;     // … but for a pause, in which they are the committed ones

 protected:
  method::Rounds rounds_;  // last: its thread uses all of the above
};

}  // namespace outstep::sync
