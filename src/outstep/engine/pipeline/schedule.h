#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

// Which passes the stages of a pipeline make, and in which order. A schedule is a value: it can be
// printed (picture), run on a virtual clock (clock.h) and executed (pipeline.h), and all three see
// the same row of actions.
//
//   Schedule schedule{.order = Order::ticks, .num_stages = 4};
//   Program program = schedule.program(/*stage=*/0);
//   program.next();   // forward of micro-batch 0, and so on
//
// One number tells the schedules apart: how far a stage's forward passes lead its backward passes.
// A stage makes a forward pass as long as no more micro-batches than its lead are in flight there,
// else a backward pass; and where a schedule flushes, it begins anew after every so many.
//
//   all_forward     lead = all of a step             GPipe (Huang et al. 2019)
//   one_forward     lead = J - 1 - j                 1F1B (PipeDream-flush, Megatron-LM)
//   ticks           lead = 2 (J - 1 - j), no flush   PETRA and all delayed methods: a tick is one
//                                                    forward and one backward pass, a message sent
//                                                    in a tick is read in the next one
//
// Stages that run freely (pipeline.h) follow no row; a program then only counts their passes.
//
// Stages count from 0 here, j = 0 … J - 1.

namespace outstep::engine {

enum class Order { all_forward, one_forward, ticks };

struct Action {
  enum class Kind { forward, backward };
  Kind kind = Kind::forward;
  int64_t micro_batch = 0;  // the how manieth that this pipeline makes, from 0

  bool operator==(const Action&) const = default;
};

// One stage's row of actions, endless. A value: copying it forks the row.
class Program {
 public:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  // flush_every: micro-batches after which nothing is in flight; kNever.
  Program(int64_t lead, int64_t flush_every) : lead_(lead), flush_every_(flush_every) {}

  Action peek() const;
  Action next() { return advance(peek().kind); }
  // Makes a pass of this kind, whatever the row says.
  Action advance(Action::Kind kind);
  int64_t num_in_flight() const { return num_forward_ - num_backward_; }

  // Passes made in all; a program is what it was if these are put back.
  int64_t num_forward() const { return num_forward_; }
  int64_t num_backward() const { return num_backward_; }
  void seek(int64_t num_forward, int64_t num_backward);

 private:
  int64_t lead_;
  int64_t flush_every_;
  int64_t num_forward_ = 0;
  int64_t num_backward_ = 0;
};

struct Schedule {
  Order order = Order::ticks;
  int num_stages = 1;
  int64_t flush_every = Program::kNever;  // micro-batches a step; finite but for ticks
  int64_t credits = 0;                    // of stages that run freely; 0: they follow the row

  // How many forward passes a stage makes before its first backward pass, the one in the same tick
  // left out.
  int64_t lead(int stage) const;
  Program program(int stage) const { return {most_in_flight(stage) - 1, flush_every}; }
  // Micro-batches between their two passes at a stage.
  int64_t most_in_flight(int stage) const;
  // Backward passes between a micro-batch's two passes at a stage: updates, with one micro-batch an
  // update. In ticks 2 (J - j), the paper's j from 1; of stages that run freely at most so many; 0
  // where a schedule flushes before an update.
  int64_t delay(int stage) const;
  // Updates between a micro-batch's two passes, with k micro-batches an update: the mean over all
  // of them, and the most. Fewer than the delay suggests where the pipeline empties.
  double staleness(int stage, int64_t k) const;
  int64_t most_staleness(int stage, int64_t k) const;
};

}  // namespace outstep::engine
