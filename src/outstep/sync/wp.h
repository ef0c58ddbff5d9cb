#pragma once

#include "outstep/sync/overlapped.h"

namespace outstep::sync {

struct WpOptions {
  OverlappedOptions overlapped = {};
  static WpOptions read(io::Section& section);
};

// WP, weight prediction: dpu, but the next gradient is computed at predicted parameters, a second
// step with the gradient of the first, which leaves no trace (Nabli et al., arXiv 2406.02613, whose
// prose leaves indices and the fate of the state open):
//
//   θ', s' = Opt(θ, s;  ΣG / ΣN)        θ̃ = Opt(θ', s';  ΣG / ΣN),   the next G at θ̃
//
// Only θ̃ is gathered: between steps the live parameters are the prediction, and pause brings the
// committed ones. docs/methods/dpu.md.
class Wp : public method::Synchronizer {
 public:
  Wp(Parts parts, WpOptions options);

  const std::string& name() const override;
  method::StepReport step(method::GradientEngine& engine,
                          const method::StepContext& context) override;
  void pause(const method::StepContext& context) override;
  void resume() override;
  int64_t optimizer_bytes() const override { return shard_.num_bytes(); }
  int64_t communication_bytes() const override;
  method::Traffic planned_traffic() const override { return rounds_.traffic(); }

  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

 private:
  at::Tensor commit_and_predict(const method::Reduced& all, const method::StepContext& context);

  Parts parts_;
  const WpOptions options_;
  // The communication thread's during a round, else the calling thread's.
  Shard shard_;
  at::Tensor predicted_;  // [own shard] θ̃, once there is a pending gradient
  method::Judgement judgement_;
  int64_t num_reduced_ = 0;  // micro-batches in the commit, of all replicas
  bool is_paused_ = false;   // the live parameters are the committed ones all the same
  method::Rounds rounds_;    // last: its thread uses all of the above
};

}  // namespace outstep::sync
