#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "outstep/base/threads.h"
#include "outstep/method/committing.h"
#include "outstep/method/difference.h"

namespace outstep::method {

// How many micro-batches a rank adds during a round.
struct RoundLength {
  int64_t at_least = 1;
  int64_t at_most = 0;    // 0: until communication is over
  bool is_fixed = false;  // at_least, neither more nor less
};

// The gradient that has travelled, as it comes out of the reduce-scatter.
struct Reduced {
  at::Tensor gradient;        // [own shard] float32, the sum over all replicas; may be overwritten
  int64_t micro_batches = 0;  // in it, of all replicas
  Contribution local = {};    // this replica's part
};

// The engine room of synchronizers that compute while they communicate.
//
// In a *round* the gradient summed so far travels to the shards, becomes new parameters there, and
// these travel back, all on a thread of its own; meanwhile the calling thread adds further
// micro-batches at the live parameters. Then both swap: the new parameters go live, the new
// gradient sets out.
//
//   rounds.prime(engine, 1);                      // the first gradient; nothing to overlap with
//   Contribution added = rounds.run(engine, context, {
//       .name = "commit",
//       .length = {.at_least = 1},
//       .policy = [&](Reduced reduced) {            // on the communication thread
//         return update_of_my_shard(reduced);
//       }});
//
// What a shard makes of a gradient is the caller's policy: it gets the reduced gradient and returns
// the own shard of the parameters to gather. Every replica issues the same collectives in the same
// order, whatever its own count: counts, reduce-scatter, those of the policy, all-gather.
//
// Buffers: the live parameters and the gradient belong to the calling thread; during a round nobody
// writes the parameters, and the communication thread may read them. `travelling` [size]
// belongs to the communication thread during a round and to the calling thread between rounds; it
// carries the gradient out and the parameters back; estimates may come back through `encoded`
// instead, which is the communication thread's alone. Errors of the communication thread come out
// at the next micro-batch border.
class Rounds {
 public:
  struct Options {
    std::string name;                     // of the method: names the thread
    comm::Wire wire = comm::Wire::exact;  // of gradients
    comm::Wire parameter_wire = comm::Wire::exact;
    // Of rounds that gather an estimate: what it differs by from the live parameters.
    DifferenceFormat estimate_format = DifferenceFormat::none;
    OnNonfinite on_nonfinite = OnNonfinite::fail;
  };
  // The own shard [shard] of the parameters to gather: of the caller's own, or reduced.gradient
  // written over. It may use the group.
  using Policy = std::function<at::Tensor(Reduced reduced)>;

  struct Round {
    const char* name = "";  // in traces; a literal
    RoundLength length = {};
    bool gathers_estimate = false;
    Policy policy;
  };

  Rounds(nn::FlatParams& params, comm::Group& group, Options options);

  // Ends the communication thread, when the job under way has ended: what policies use may go then.
  void stop() { worker_.reset(); }

  // Adds exactly `count` micro-batches at the live parameters and sends them on their way in the
  // next round. Nothing may be on its way.
  void prime(GradientEngine& engine, int64_t count);
  // One round. Returns what was added, which is what the next round carries.
  Contribution run(GradientEngine& engine, const StepContext& context, Round round);
  // A round without computing; nothing is on its way after it.
  void run_alone(const StepContext& context, Round round);

  // This rank's part of the gradient that the next round carries.
  const std::optional<Contribution>& pending() const { return pending_; }
  // The buffers as they were before the pending gradient's forward passes.
  const BuffersBeforeStep& buffers_before_pending() const { return buffers_before_pending_; }
  // After a commit: puts these buffers back if it was skipped.
  void put_back_buffers(const BuffersBeforeStep& before, const Judgement& judgement);
  // Between rounds, on all replicas: reduces the pending gradient now instead of in the next round,
  // so that it can be saved shard by shard.
  void settle(const StepContext& context);
  // Between rounds, on all replicas: the live parameters become what the shards are.
  void gather(const at::Tensor& shard);

  const comm::Shards& shards() const { return shards_; }
  optim::Range own_range() const;
  at::Tensor own(const at::Tensor& vector) const;  // the own shard of a flat vector
  // Of a vector of which every replica holds a shard. Communicates: for policies.
  optim::ExactSum squared_norm(const at::Tensor& shard, const StepContext& context);

  int64_t communication_bytes() const {
    return static_cast<int64_t>(travelling_.nbytes() + encoded_.nbytes());
  }
  Traffic traffic(bool gathers_estimate = false) const;  // of one round, a norm included

  // Since the last call: seconds in which communication was under way, and those of them in which
  // the calling thread waited.
  struct Times {
    double communication_seconds = 0;
    double idle_seconds = 0;
  };
  Times take_times();

  // Pending work, which must be settled: shared, slice and local entries that begin with the
  // method's name.
  void save(io::StateWriter& writer) const;
  void load(io::StateReader& reader);

 private:
  Contribution accumulate(GradientEngine& engine, const RoundLength& length,
                          SerialWorker::Ticket round);
  void communicate(const StepContext& context, const Round& round);
  void reduce(const StepContext& context);
  void bring(const at::Tensor& shard, bool is_estimate, const StepContext& context);
  void bring_difference(const at::Tensor& shard, const StepContext& context);
  int64_t gather_bytes(bool is_estimate) const;
  bool sends_differences() const { return options_.estimate_format != DifferenceFormat::none; }
  void await(SerialWorker::Ticket job, const StepContext& context);
  void send_off(const Contribution& added);

  nn::FlatParams& params_;
  comm::Group& group_;
  const Options options_;
  const comm::Shards shards_;
  const DifferenceCodec codec_;               // of estimates, if they have a format
  at::Tensor travelling_;                     // [size]; see above
  at::Tensor encoded_;                        // uint8; empty if estimates have no format
  std::optional<Contribution> pending_;       // calling thread
  BuffersBeforeStep buffers_before_pending_;  // calling thread
  bool is_reduced_ = false;                   // whoever has travelling_
  int64_t reduced_micro_batches_ = 0;         // whoever has travelling_
  Times times_;                           // communication_seconds as travelling_; the rest calling
  std::unique_ptr<SerialWorker> worker_;  // last: its jobs use all of the above
};

}  // namespace outstep::method
