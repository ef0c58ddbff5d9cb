#pragma once

#include <algorithm>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "outstep/engine/pipeline/footprint.h"
#include "outstep/train/assembly.h"

namespace outstep::train {

// What a recipe's stages would do, found without training: the schedule on a virtual clock, from
// block times measured here, and memory and traffic by formula.
struct PipelinePlan {
  struct Stage {
    int64_t num_blocks = 0;
    double forward_seconds = 0;   // of a micro-batch
    double backward_seconds = 0;  // what is evaluated again included
    int64_t delay_ticks = 0;      // between a micro-batch's two passes; of free stages at most
    double staleness = 0;         // updates between them, the mean; of free stages at most
    engine::StageTraffic sent;    // of a micro-batch
    engine::StageBytes bytes;
    int64_t graph_bytes = 0;  // at most; 0 if nothing is measured
  };
  // The same cut trained by another mode.
  struct Mode {
    std::string name;
    bool is_recipes = false;
    double seconds_per_micro_batch = 0;
    double bubble_fraction = 0;
    double speed_up = 0;      // over one process that backpropagates
    int64_t delay_ticks = 0;  // of the first stage, and so
    double staleness = 0;     // updates
    // By stage: parameters, gradients, inputs kept, copies, and graphs if they are measured.
    std::vector<int64_t> stage_bytes;
    std::vector<int64_t> num_graphs;  // by stage: micro-batches whose graph is kept

    int64_t largest_stage_bytes() const { return std::ranges::max(stage_bytes); }
  };
  bool is_measured = false;  // else seconds are units, of a block's forward pass
  bool is_free = false;      // engine.pace; the schedule is that of ticks all the same
  // Each rank's; the schedule has it if times are measured.
  std::optional<double> link_bits_per_second;
  std::vector<Stage> stages;
  std::vector<Mode> modes;
  std::string picture;              // of the recipe's mode
  double picture_from_seconds = 0;  // 0: its first ticks
  // Of a reversible model: Table 3 of the PETRA paper, a stage a block and k = 1. Inputs and
  // parameters buffered; inputs; parameters; neither.
  std::vector<int64_t> table3_bytes;

  double link_seconds(int64_t bytes) const {
    return link_bits_per_second ? static_cast<double>(bytes) * 8 / *link_bits_per_second : 0;
  }
  nlohmann::ordered_json to_json() const;
};

// Costs of blocks, measured or of units, that are found when they are first asked for, and then
// remembered: the cut and the plan are made from the same ones.
CostSource plan_costs(bool measure);

struct PipelinePlanOptions {
  CostSource costs;
  bool is_measured = false;
  std::optional<double> link_bits_per_second = std::nullopt;
};
PipelinePlan plan_pipeline(Recipe& recipe, const Assembly& assembly,
                           const PipelinePlanOptions& options);

}  // namespace outstep::train
