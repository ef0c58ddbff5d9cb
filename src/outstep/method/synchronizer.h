#pragma once

#include <string>
#include <vector>

#include "outstep/base/trace.h"
#include "outstep/io/state.h"
#include "outstep/method/engine.h"
#include "outstep/optim/optimizer.h"

namespace outstep::method {

struct StepContext {
  int64_t step = 0;          // committed updates so far
  double lr = 0;             // of this update
  int64_t accumulation = 1;  // micro-batches a rank and step, where the synchronizer fixes it
  double clip_norm = 0;      // 0: no clipping
  trace::Tracer* tracer = nullptr;
};

// One committed update, as this rank saw it.
struct StepReport {
  Contribution local = {};          // this rank's micro-batches in the update
  int64_t micro_batches_total = 0;  // of all replicas in the update
  double grad_norm = 0;             // of the mean gradient, before clipping
  double lr = 0;
  // Of methods with several rounds a step: this rank's micro-batches in each, and which share of
  // the update the first one, all replicas together, makes.
  std::vector<int64_t> round_micro_batches = {};
  double estimate_share = 0;
  bool is_skipped = false;           // the gradient was not finite and the recipe said to drop it
  int64_t bytes_sent = 0;            // by this rank, for this update
  double communication_seconds = 0;  // time in which this rank's communication was under way
  double idle_seconds = 0;           // the part of it during which the compute thread waited
};

// How far communication runs beside computing.
enum class Overlap {
  none,                  // after the last micro-batch: zero1
  backward,              // what is left of the last backward hides gradients: ddp
  backward_and_forward,  // and the next forward hides parameters: zero1 with overlap
  everything,            // method::Rounds: dpu, wp, acco
};

// What one update costs on the wire, by formula: for `outstep plan`, and what tests hold bytes_sent
// against.
struct Traffic {
  int64_t bytes_sent = 0;                 // by this rank
  int64_t overlapped_bytes = 0;           // the part that may travel while this rank computes
  Overlap overlap = Overlap::none;        // behind what they travel
  std::vector<int64_t> round_bytes = {};  // bytes_sent by round; empty: there is but one
};

// Drives the engine to one committed update on which all replicas agree. The sync drives because
// only it knows when it needs another micro-batch: DDP asks for a fixed number, ACCO asks until its
// communication is done.
//
// Between step and pause the live parameters are the engine's alone: they may be a prediction, or
// not have arrived yet. One thread calls it. After step has thrown, the synchronizer and its group
// are of no use but to be destroyed.
class Synchronizer : public io::Stateful {
 public:
  virtual const std::string& name() const = 0;
  virtual StepReport step(GradientEngine& engine, const StepContext& context) = 0;
  // Between two steps, on all replicas, before parameters are evaluated, saved or mixed: the live
  // parameters become the committed ones, and work in flight takes a form that can be saved. resume
  // puts back what computing goes on with; neither changes what follows.
  virtual void pause(const StepContext& /*context*/) {}
  virtual void resume() {}
  // Around what writes the parameters between two steps, on all replicas: after begin_mixing the
  // live parameters are the committed ones, end_mixing takes what they have become for them. Unlike
  // pause, neither touches work in flight, which goes on overlapping: a gradient that was computed
  // at the former parameters is applied to the new ones. Both are within the update that was just
  // made, so nobody marks the parameters changed: no forward pass lies between.
  virtual void begin_mixing(const StepContext& /*context*/) {}
  virtual void end_mixing() {}
  // The optimizer's state of the ranges that this rank owns, to be written while mixing.
  virtual std::vector<optim::State*> optimizer_states() = 0;
  // Bytes of parameters-sized vectors this rank holds beside parameters and gradients: optimizer
  // state, communication buffers.
  virtual int64_t optimizer_bytes() const = 0;
  virtual int64_t communication_bytes() const = 0;
  virtual Traffic planned_traffic() const = 0;
};

}  // namespace outstep::method
