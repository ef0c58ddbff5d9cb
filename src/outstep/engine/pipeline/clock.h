#pragma once

#include <string>
#include <vector>

#include "outstep/engine/pipeline/cut.h"
#include "outstep/engine/pipeline/schedule.h"

// A schedule on a virtual clock: when each pass would run, if stages took given times.

namespace outstep::engine {

struct PassTimes {
  double forward_seconds = 1;
  double backward_seconds = 2;  // what it evaluates again included
  // That a message to the next stage, or the previous one, keeps the stage's link busy.
  double to_next_seconds = 0;
  double to_previous_seconds = 0;
};

struct Pass {
  int stage = 0;
  Action action = {};
  double begin = 0;  // seconds
  double end = 0;
};

// What a number of micro-batches took, until the first stage had their gradients.
struct Timeline {
  int num_stages = 1;
  std::vector<Pass> passes;  // by stage, then in order

  double seconds() const;
  // Between the end of the micro-batch `from` at the first stage and that of the last one: seconds
  // a micro-batch, and the share of time in which stages wait. from = 0: filling included.
  double seconds_per_micro_batch(int64_t from) const;
  double bubble_fraction(int64_t from) const;
  // Most micro-batches between their two passes at a stage.
  int64_t most_in_flight(int stage) const;

  // Until the first stage goes back for the first time.
  double filling_seconds() const;

  // A line a stage, time to the right, in cells of cell_seconds: F and B with the micro-batch's
  // number, dots where a stage waits. As many cells as fit in max_columns.
  std::string picture(double cell_seconds, size_t max_columns, double from_seconds = 0) const;
};

// Until every stage has gone back through so many micro-batches; a multiple of those of a step
// where the schedule flushes. Runs each stage's row of actions as soon as what it needs is there:
// activations from the stage before, gradients from the one behind, each when it has travelled. A
// stage sends one message after the other, and computes meanwhile.
Timeline simulate(const Schedule& schedule, const std::vector<PassTimes>& stages,
                  int64_t num_micro_batches);

// What the passes of the stages of a cut take in a mode, from those of the blocks.
std::vector<PassTimes> pass_times(const std::vector<BlockCost>& costs, const Cut& cut,
                                  const Mode& mode);

}  // namespace outstep::engine
