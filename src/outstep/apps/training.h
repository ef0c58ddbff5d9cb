#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "outstep/apps/rank.h"
#include "outstep/train/recipe.h"

// One rank's part of a training run, from recipe to the last line on the screen: what train and
// resume share.

namespace outstep::apps {

struct TrainingJob {
  std::function<train::Recipe()> read_recipe;  // each rank reads its own
  std::filesystem::path run_folder;            // empty: runs/NAME-TIME
  bool resume = false;                         // from the newest checkpoint in run_folder
  bool trace = false;                          // write trace-RANK.json into the run's folder
  bool dry_run = false;                        // build everything, show it, make nothing
};

// The flags with which `outstep resume` goes on in the same way.
std::vector<std::string> resume_flags(const ScreenOptions& screen, bool trace);

// The exit code: 0, or 128 + signal for a run that was asked to stop and saved a checkpoint.
// A CommError leaves with the last checkpoint and the command to go on with, and the flight record
// saved.
int train_on_rank(const TrainingJob& job, Rank& rank);

}  // namespace outstep::apps
