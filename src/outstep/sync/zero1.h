#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "outstep/base/threads.h"
#include "outstep/comm/shards.h"
#include "outstep/io/settings.h"
#include "outstep/method/committing.h"
#include "outstep/method/layout.h"
#include "outstep/method/synchronizer.h"
#include "outstep/sync/parts.h"

namespace outstep::sync {

struct Zero1Options {
  comm::Wire wire = comm::Wire::exact;  // of gradients; parameters always travel exactly
  method::OnNonfinite on_nonfinite = method::OnNonfinite::fail;
  // Reduce-scatter bucket by bucket during the last backward pass, all-gather during the next
  // forward pass; each bucket has shards of its own.
  bool overlap = false;
  method::BucketOptions buckets = {};  // with overlap

  // wire ("fp32" or "bf16"), on_nonfinite, overlap; with it bucket_bytes and first_bucket_bytes of
  // [sync].
  static Zero1Options read(io::Section& section);
};

// ZeRO stage 1 (Rajbhandari et al., SC 2020): each replica keeps the optimizer's state of its shard
// of the flat vector. A step reduce-scatters the summed gradient, updates the own shard and
// all-gathers the parameters.
//
// Lockstep. Without overlap all is done on the calling thread, after backward. With overlap, as in
// Megatron-LM's distributed optimizer, a bucket's gradient travels as soon as backward has finished
// it, and its parameters arrive when the next step's forward pass asks for them: after a step and
// before pause the live parameters are incomplete.
//
// The gradient's norm is exact (optim::ExactSum), so for float32 on the wire the result has the
// bits of ddp and of one rank that accumulates the same micro-batches, with overlap or without.
// docs/methods/zero1.md has the buffer table.
class Zero1 : public method::Synchronizer {
 public:
  Zero1(Parts parts, Zero1Options options);
  ~Zero1() override;

  const std::string& name() const override;
  method::StepReport step(method::GradientEngine& engine,
                          const method::StepContext& context) override;
  void pause(const method::StepContext& context) override;
  void begin_mixing(const method::StepContext& context) override { pause(context); }
  std::vector<optim::State*> optimizer_states() override;
  int64_t optimizer_bytes() const override;
  int64_t communication_bytes() const override { return 0; }  // sums into the gradient's own shard
  method::Traffic planned_traffic() const override;

  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

 private:
  // Of the flat vector; all of it without overlap.
  struct Bucket {
    optim::Range range;
    comm::Shards shards;
    optim::State state;  // of the own shard
    // Compute thread: the job that brings its parameters, and whether the engine has asked for it.
    SerialWorker::Ticket gathering = 0;
    bool is_needed = false;
  };

  method::Contribution accumulate(method::GradientEngine& engine,
                                  const method::StepContext& context);
  method::Judgement reduce_norm(const method::StepContext& context,
                                const method::StepReport& report);
  void update(const method::Judgement& judgement, const method::StepContext& context);
  SerialWorker::Ticket send(const method::StepContext& context, const std::function<void()>& job);
  void await(const method::StepContext& context, const std::function<void()>& until);
  void launch_complete(const method::StepContext& context);
  void reduce(const Bucket& bucket, const method::StepContext& context);
  void gather(const Bucket& bucket, const method::StepContext& context);
  int64_t gather_bytes() const;

  const Parts parts_;
  const Zero1Options options_;
  std::vector<Bucket> buckets_;      // in the order in which backward finishes them
  method::BucketProgress progress_;  // compute thread
  double idle_seconds_ = 0;          // compute thread
  int64_t bytes_told_ = 0;           // compute thread; of the group's, in reports
  std::atomic<double> communication_seconds_ = 0;
  std::unique_ptr<SerialWorker> worker_;  // null without overlap; last: its jobs use the above
};

}  // namespace outstep::sync
