#pragma once

#include <string>

#include "outstep/io/settings.h"
#include "outstep/method/committing.h"
#include "outstep/method/rounds.h"
#include "outstep/sync/parts.h"

// What the methods that compute while they communicate share beside method::Rounds: acco, dpu, wp.

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

  // counts, k_min, k_max, wire, live and on_nonfinite of [sync]. Throws ConfigError for k_max below
  // k_min, and for bounds beside fixed counts.
  static OverlappedOptions read(io::Section& section);

  // count: a round's micro-batches where they are fixed.
  method::RoundLength length(int64_t count) const;
};

// What the rounds of a step and its commit came to.
void tell(method::StepReport& report, method::Rounds& rounds, const method::Judgement& judgement);

// Brings exact parameters to what an all-gather with that wire would have brought.
void round_as_gathered(const at::Tensor& live, comm::Wire wire);

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

  const at::Tensor& values() const { return values_; }
  int64_t num_bytes() const;  // of parameters and state

  void save(io::StateWriter& writer, int64_t total) const { state_.save(writer, total); }
  void load(io::StateReader& reader, int64_t total);

 private:
  const optim::Optimizer& optimizer_;
  optim::State state_;
  at::Tensor values_;  // [shard] θ
  bool is_known_ = false;
};

}  // namespace outstep::sync
