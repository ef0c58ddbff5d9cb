#pragma once

#include <memory>
#include <vector>

#include "outstep/base/threads.h"
#include "outstep/io/settings.h"
#include "outstep/method/committing.h"
#include "outstep/method/layout.h"
#include "outstep/method/synchronizer.h"
#include "outstep/sync/parts.h"

namespace outstep::sync {

struct DdpOptions {
  method::BucketOptions buckets = {};
  comm::Wire wire = comm::Wire::exact;
  method::OnNonfinite on_nonfinite = method::OnNonfinite::fail;

  // bucket_bytes, first_bucket_bytes, wire ("fp32" or "bf16") and on_nonfinite of [sync].
  static DdpOptions read(io::Section& section);
};

// Distributed data parallel (Li et al., VLDB 2020): every replica holds everything; gradients are
// summed over replicas bucket by bucket while backward is still running, then each replica makes
// the same update.
//
// The flat vector is cut into buckets from its end, as backward finishes it. During the last
// micro-batch of a step, complete buckets are all-reduced on a thread of this object's own, always
// in the order of the plan, so that the ranks' collectives match whatever order their backward
// takes. docs/methods/ddp.md has the buffer table.
class Ddp : public method::Synchronizer {
 public:
  Ddp(Parts parts, DdpOptions options);

  const std::string& name() const override;
  method::StepReport step(method::GradientEngine& engine,
                          const method::StepContext& context) override;
  int64_t optimizer_bytes() const override { return state_.num_bytes(); }
  int64_t communication_bytes() const override { return 0; }  // sums in place
  std::vector<optim::State*> optimizer_states() override { return {&state_}; }
  method::Traffic planned_traffic() const override;

  // Each rank writes its share of the optimizer's state, by flat index: any other sync and world
  // can read it.
  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

  const std::vector<optim::Range>& buckets() const { return progress_.buckets(); }

 private:
  method::Contribution accumulate_and_reduce(method::GradientEngine& engine,
                                             const method::StepContext& context);
  void launch_complete(int64_t step, trace::Tracer* tracer);
  void reduce(const optim::Range& bucket, int64_t step, trace::Tracer* tracer);

  Parts parts_;
  DdpOptions options_;
  optim::State state_;               // of the whole flat vector
  method::BucketProgress progress_;  // compute thread
  double communication_seconds_ =
      0;  // worker's, read by the compute thread after waiting for all jobs
  std::unique_ptr<SerialWorker> worker_;  // null when alone; last: its jobs use all of the above
};

}  // namespace outstep::sync
