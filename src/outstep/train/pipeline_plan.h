#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "outstep/engine/pipeline/footprint.h"
#include "outstep/train/assembly.h"

namespace outstep::train {

// What a recipe's stages would do, found without training: the schedule on a virtual clock, from
// block times measured here, and the memory by formula.
struct PipelinePlan {
  struct Stage {
    int64_t num_blocks = 0;
    double forward_seconds = 0;   // of a micro-batch
    double backward_seconds = 0;  // what is evaluated again included
    int64_t delay_ticks = 0;      // between a micro-batch's two passes; of free stages at most
    engine::StageBytes bytes;
  };
  // The same cut trained by another mode.
  struct Mode {
    std::string name;
    bool is_recipes = false;
    double seconds_per_micro_batch = 0;
    double bubble_fraction = 0;
    double speed_up = 0;              // over one process that backpropagates
    int64_t largest_stage_bytes = 0;  // parameters, gradients, inputs kept, copies
  };
  bool is_measured = false;  // else seconds are units, of a block's forward pass
  bool is_free = false;      // engine.pace; the schedule is that of ticks all the same
  std::vector<Stage> stages;
  std::vector<Mode> modes;
  std::string picture;  // of the recipe's mode, its first ticks
  // Of a reversible model: Table 3 of the PETRA paper, a stage a block and k = 1. Inputs and
  // parameters buffered; inputs; parameters; neither.
  std::vector<int64_t> table3_bytes;

  nlohmann::ordered_json to_json() const;
};

PipelinePlan plan_pipeline(Recipe& recipe, const Assembly& assembly, bool measure);

}  // namespace outstep::train
