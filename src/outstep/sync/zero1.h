#pragma once

#include "outstep/comm/shards.h"
#include "outstep/io/settings.h"
#include "outstep/method/committing.h"
#include "outstep/method/synchronizer.h"
#include "outstep/sync/parts.h"

namespace outstep::sync {

struct Zero1Options {
  comm::Wire wire = comm::Wire::exact;  // of gradients; parameters always travel exactly
  method::OnNonfinite on_nonfinite = method::OnNonfinite::fail;

  // wire ("fp32" or "bf16") and on_nonfinite of [sync].
  static Zero1Options read(io::Section& section);
};

// ZeRO stage 1 (Rajbhandari et al., SC 2020): each replica keeps the optimizer's state of one shard
// of the flat vector. A step reduce-scatters the summed gradient, updates the own shard and
// all-gathers the parameters.
//
// Lockstep, on the calling thread. The gradient's norm is exact (optim::ExactSum), so for float32
// on the wire the result has the bits of ddp and of one rank that accumulates the same
// micro-batches. docs/methods/zero1.md has the buffer table.
class Zero1 : public method::Synchronizer {
 public:
  Zero1(Parts parts, Zero1Options options);

  const std::string& name() const override;
  method::StepReport step(method::GradientEngine& engine,
                          const method::StepContext& context) override;
  int64_t optimizer_bytes() const override { return state_.num_bytes(); }
  int64_t communication_bytes() const override { return 0; }  // sums into the gradient's own shard
  method::Traffic planned_traffic() const override;

  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

  const comm::Shards& shards() const { return shards_; }

 private:
  Parts parts_;
  Zero1Options options_;
  comm::Shards shards_;
  optim::State state_;  // of this rank's shard
};

}  // namespace outstep::sync
