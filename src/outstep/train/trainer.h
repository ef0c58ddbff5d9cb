#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "outstep/train/assembly.h"
#include "outstep/train/population.h"

namespace outstep::train {

// What a run came to; --json prints it. Of a population, losses, accuracies and rates are those of
// all members together.
struct Summary {
  std::filesystem::path run;
  int64_t steps = 0;      // committed updates
  double progress = 0;    // Position of checkpoint.h
  bool finished = false;  // false: stopped by a signal, to be resumed
  // Of the last steps, as the last line of the log has it; none if there was nothing left to train.
  std::optional<double> train_loss = std::nullopt;
  std::optional<double> validation_loss = std::nullopt;
  std::optional<double> accuracy = std::nullopt;  // of classes; none for text
  std::string unit;                               // "tokens", "images" or "samples"
  double units_per_second = 0;  // all replicas, over the steady part (the first tenth left out)
  double train_seconds = 0;     // of this process, evaluation and checkpoints left out
  double seconds_to_first_step = 0;  // from the start of this process
  int64_t peak_memory_bytes = 0;     // of this rank's tensors, while training
  int64_t bytes_sent = 0;            // by this rank, for updates
  double overlap_fraction = 0;       // share of communication time hidden behind computing
  std::optional<Population> population = std::nullopt;  // of a finished run of several members
  std::vector<int> lost_members = {};                   // that the run goes on without

  nlohmann::ordered_json to_json() const;
};

// One line of progress, given to whoever shows it.
struct Progress {
  int64_t step = 0;  // of the recipe's `steps`, rounded down
  int64_t steps = 0;
  bool crosses_interval = false;  // a multiple of log.every was reached
  double loss = 0;                // mean over replicas since the last line of the log
  std::optional<double> validation_loss = std::nullopt;  // of the last evaluation
  double lr = 0;
  double grad_norm = 0;
  double steps_per_second = 0;  // of the recipe's
  double units_per_second = 0;
  double overlap_fraction = 0;
  std::string unit;
};

struct TrainerOptions {
  std::filesystem::path run_folder;
  // Goes on from the newest checkpoint in run_folder, or from the start if there is none yet.
  bool resume = false;
  const std::atomic<bool>* stop = nullptr;  // set by a signal: finish the step, checkpoint, return
  std::function<void(const Progress&)> on_progress = nullptr;  // rank 0's screen, every step
  trace::Tracer* tracer = nullptr;
};

// Trains to the recipe's last step and reads in the order things happen: step, mix, statistics,
// log, evaluate, checkpoint. Every rank calls it. What a step costs beside the method itself is one
// small message a peer, read one step later: it carries loss sums for the log and the wish to stop,
// so that all ranks stop at the same step. Throws DataError if another process trains the run.
Summary run_training(Recipe& recipe, Assembly& assembly, const TrainerOptions& options);

}  // namespace outstep::train
