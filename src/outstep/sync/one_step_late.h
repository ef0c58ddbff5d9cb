#pragma once

#include "outstep/sync/overlapped.h"

namespace outstep::sync {

// Where the next gradient is computed while one is applied.
enum class NextGradient {
  at_old_parameters,  // dpu
  at_prediction,      // wp
};

// DPU, delayed parameter update (Ren et al., ZeRO-Offload, arXiv 2101.06840): while the gradient of
// one step travels, is applied and comes back as parameters, the next one is computed at the
// parameters that are there. Every gradient is applied one update late:
//
//   θ', s' = Opt(θ, s;  ΣG / ΣN),   G at the parameters before θ
//
// WP, weight prediction: the same, but the next gradient is computed at a second step with the
// gradient of the first, which leaves no trace (Nabli et al., arXiv 2406.02613, whose prose leaves
// indices and the fate of the state open):
//
//   θ̃ = Opt(θ', s';  ΣG / ΣN),   the next G at θ̃
//
// Only θ̃ is gathered then. What acco is measured against: the same overlap in half the traffic,
// with the harm of old gradients. A call of step is one round; the next gradient is pending between
// calls. docs/methods/dpu.md.
class OneStepLate : public Overlapped {
 public:
  OneStepLate(Parts parts, NextGradient next, OverlappedOptions options);
  ~OneStepLate() override;

  int64_t communication_bytes() const override;

 private:
  void run_rounds(method::GradientEngine& engine, const method::StepContext& context,
                  method::StepReport& report) override;
  const at::Tensor* prediction() const override;
  at::Tensor commit(const method::Reduced& all, const method::StepContext& context);

  at::Tensor predicted_;  // [own shard] θ̃; undefined for dpu
};

}  // namespace outstep::sync
