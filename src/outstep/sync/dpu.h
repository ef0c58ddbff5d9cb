#pragma once

#include "outstep/sync/overlapped.h"

namespace outstep::sync {

struct DpuOptions {
  OverlappedOptions overlapped = {};
  static DpuOptions read(io::Section& section);
};

// DPU, delayed parameter update (Ren et al., ZeRO-Offload, arXiv 2101.06840): while the gradient of
// one step travels, is applied and comes back as parameters, the next one is computed at the
// parameters that are there. Every gradient is applied one update late:
//
//   θ', s' = Opt(θ, s;  ΣG / ΣN),   G at the parameters before θ
//
// What acco is measured against: the same overlap in half the traffic, with the harm of old
// gradients. A call of step is one round; the next gradient is pending between calls.
// docs/methods/dpu.md.
class Dpu : public method::Synchronizer {
 public:
  Dpu(Parts parts, DpuOptions options);

  const std::string& name() const override;
  method::StepReport step(method::GradientEngine& engine,
                          const method::StepContext& context) override;
  void pause(const method::StepContext& context) override;
  void resume() override;
  int64_t optimizer_bytes() const override { return shard_.num_bytes(); }
  int64_t communication_bytes() const override { return rounds_.communication_bytes(); }
  method::Traffic planned_traffic() const override { return rounds_.traffic(); }

  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

 private:
  Parts parts_;
  const DpuOptions options_;
  // The communication thread's during a round, else the calling thread's.
  Shard shard_;
  method::Judgement judgement_;
  int64_t num_reduced_ = 0;  // micro-batches in the commit, of all replicas
  method::Rounds rounds_;    // last: its thread uses all of the above
};

}  // namespace outstep::sync
