#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "outstep/base/trace.h"
#include "outstep/io/state.h"
#include "outstep/optim/optimizer.h"

namespace outstep::method {

struct MixContext {
  int64_t step = 0;     // committed updates before the one that has just been made
  double lr_share = 1;  // its learning rate as a share of the recipe's (lr_t / lr_0)
  trace::Tracer* tracer = nullptr;
};

struct MixReport {
  int64_t bytes_sent = 0;  // by this rank
  int64_t num_mixed = 0;   // its parameters that took a value from outside
  double communication_seconds = 0;
  double idle_seconds = 0;  // the part of it during which the compute thread waited
};

// Lets the members of a population share something after a committed update. It talks along the
// member axis: to the ranks of other members that hold the same stage and replica, on a group of
// its own. All of them call it with the same context, so whatever it draws by (seed, step) they
// draw alike, and replicas, which do the same with the same values, stay equal.
//
// One thread calls it. After it has thrown, it and its group are of no use.
class Mixer : public io::Stateful {
 public:
  virtual const std::string& name() const = 0;
  // Whether there is anything to do after this step; only then are committed parameters brought.
  virtual bool is_due(const MixContext& context) const = 0;
  // Between Synchronizer::begin_mixing and end_mixing: writes the live parameters, which are the
  // committed ones then. states: the optimizer's, of the ranges that this rank owns.
  virtual MixReport after_step(const MixContext& context,
                               std::span<optim::State* const> states) = 0;
  // What a rank sends in a step, the mean over many: for `outstep plan`.
  virtual double planned_bytes_per_step() const = 0;
};

}  // namespace outstep::method
