#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "outstep/comm/fabric.h"
#include "outstep/comm/mesh.h"
#include "outstep/io/settings.h"
#include "outstep/train/members.h"

// A recipe: the settings of a run, and those of its sections that belong to no component ([mesh],
// [comm], [train], [evaluation], [checkpoint], [log]) already read, as are the members of its
// population. Components ([model], [data],
// [engine], [sync], [ensemble], [optimizer], [schedule]) read their own sections when they are
// made, so none ever sees the whole recipe. docs/recipes.md lists every key.

namespace outstep::train {

struct TrainOptions {
  int64_t steps = 100;
  int64_t accumulation = 1;  // micro-batches a rank and step
  uint64_t seed = 1;
  double clip_norm = 0;  // 0: no clipping
  int64_t threads = 0;   // compute threads a rank; 0: this machine's cores shared by its ranks
  std::string device = "cpu";  // "cpu" or "cuda"
};

struct EvaluationOptions {
  int64_t every = 0;        // steps; 0: only at the end
  int64_t max_batches = 0;  // 0: the whole validation set
  int64_t batch = 0;        // examples; 0: the engine's micro-batch
};

struct CheckpointOptions {
  int64_t every = 0;      // steps; 0: only at the end and when stopped
  int64_t keep = 2;       // newest checkpoints kept, beside the best one
  bool keep_best = true;  // the lowest validation loss among those saved
};

struct LogOptions {
  int64_t every = 10;  // steps
  bool tensorboard = true;
};

struct Recipe {
  Recipe(std::string run_name, io::Settings values)
      : name(std::move(run_name)), settings(std::move(values)) {}

  std::string name;  // the file's stem; of a run's recipe.toml the run's name
  io::Settings settings;
  comm::Mesh mesh;  // of the members that the run has
  Members members;
  comm::FabricOptions comm;
  TrainOptions train;
  EvaluationOptions evaluation;
  CheckpointOptions checkpoint;
  LogOptions log;
};

// Throws ConfigError (origin, key, what is allowed). Unknown keys are found later, when all
// components have read theirs: assemble() calls settings.require_all_used().
Recipe read_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides);
// The same from text; origin stands for the file's name in errors.
Recipe read_recipe_text(const std::string& toml, const std::string& origin,
                        const std::vector<std::string>& overrides = {});

}  // namespace outstep::train
