#pragma once

#include "outstep/sync/overlapped.h"

namespace outstep::sync {

struct AccoOptions {
  OverlappedOptions overlapped = {};
  // Of a step's train.accumulation micro-batches with fixed counts, how many are the estimate half.
  int64_t estimate_micro_batches = 1;
  // Times the learning rate of the tentative step. At 0 the estimate half is computed at parameters
  // that are a commit old.
  double estimate_scale = 1;
  // How θ̃ travels: as it is, or as its difference to θ in few bits. Commits stay exact.
  method::DifferenceFormat estimate_format = method::DifferenceFormat::none;
  // Steps at first that wait for their communication, as zero1's (n_warmup_steps of the paper).
  int64_t synchronous_steps = 0;

  // OverlappedOptions' keys, estimate_micro_batches, estimate_scale, estimate_dtype and
  // synchronous_steps of [sync]. accumulation: train.accumulation. Throws ConfigError where it
  // leaves a half empty.
  static AccoOptions read(io::Section& section, int64_t accumulation);

  // Micro-batches of a rank in a step's estimate half and in its other half.
  method::RoundLength first_half(int64_t accumulation, int64_t step = 0) const;
  method::RoundLength second_half(int64_t accumulation, int64_t step = 0) const;

 private:
  int64_t num_estimated(int64_t accumulation) const;
};

// ACCO, "accumulate while you communicate" (Nabli et al., arXiv 2406.02613): ZeRO-1 whose
// communication hides behind gradients, and whose gradients are not taken at old parameters.
//
// A commit takes two rounds. While the *estimate half* G̃ travels, the other half G is computed at
// the committed parameters θ; of G̃ alone, the shards make a tentative step to θ̃, an estimate of
// the next parameters. While G travels, the next estimate half is computed at θ̃; the shards commit
// what both halves make:
//
//   (A)  θ̃'      = Opt(θ, s;  ΣG̃ / ΣÑ)                 leaves no trace in s
//   (B)  θ', s'  = Opt(θ, s;  Σ(G̃ + G) / Σ(Ñ + N))
//
// The reduced slice of G̃ is kept for (B), so each half travels once. A call of step is one commit;
// between calls the live parameters are the committed ones and the next estimate half is pending.
// docs/methods/acco.md has the buffer table.
class Acco : public Overlapped {
 public:
  Acco(Parts parts, AccoOptions options);
  ~Acco() override;

  int64_t communication_bytes() const override;
  method::Traffic planned_traffic() const override;

 private:
  void run_rounds(method::GradientEngine& engine, const method::StepContext& context,
                  method::StepReport& report) override;
  void wait_for_commit(method::GradientEngine& engine, const method::StepContext& context,
                       method::StepReport& report);
  void overlap(method::GradientEngine& engine, const method::StepContext& context,
               method::StepReport& report);
  method::Rounds::Round estimate_round(const method::RoundLength& length,
                                       const method::StepContext& context);
  method::Rounds::Round commit_round(const method::RoundLength& length,
                                     const method::StepContext& context);
  // On the communication thread.
  at::Tensor estimate(const method::Reduced& half, const method::StepContext& context);
  at::Tensor commit(const method::Reduced& half, const method::StepContext& context);

  const AccoOptions acco_;
  // Of the step under way; the communication thread's during a round, else the calling thread's.
  at::Tensor gradient_;        // [own shard] ΣG̃, then Σ(G̃ + G)
  int64_t num_estimated_ = 0;  // ΣÑ; 0: no estimate was made
};

}  // namespace outstep::sync
