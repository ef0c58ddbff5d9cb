#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "outstep/engine/pipeline/mode.h"
#include "outstep/engine/precision.h"
#include "outstep/io/settings.h"
#include "outstep/nn/flat_params.h"
#include "outstep/nn/model.h"

// Where a model's list of blocks is cut into stages.

namespace outstep::engine {

// Blocks a stage, first stage first.
using Cut = std::vector<int64_t>;

nn::BlockRange blocks_of(const Cut& cut, int stage);

// Throws ConfigError, beginning with origin, if there are more stages than blocks.
void require_enough_blocks(const nn::Model& model, int num_stages, const std::string& origin);
// Throws ConfigError, beginning with origin, if blocks share a parameter: where a cut may fall, is
// found without looking at that.
void require_untied(const nn::Model& model, const std::string& origin);
// Throws ConfigError, beginning with origin, unless the cut gives every stage a block and every
// block a stage, and no parameter belongs to two stages.
void require_cuts(const nn::Model& model, const Cut& cut, int num_stages,
                  const std::string& origin);

// What a block costs for one micro-batch.
struct BlockCost {
  double forward_seconds = 0;
  double backward_seconds = 0;  // through a graph that is there
  bool is_reversible = false;
  int64_t graph_bytes = 0;  // what a graph holds, output included and input not; 0: not measured
};

// Where nothing is measured: a backward pass takes two forward passes, and all blocks are alike.
std::vector<BlockCost> unit_costs(const nn::Model& model);

// What a stage of such blocks costs: a forward and a backward pass, what is evaluated again
// included.
double stage_seconds(const std::vector<BlockCost>& costs, nn::BlockRange blocks, const Mode& mode,
                     bool is_last);

// Of all cuts the one whose costliest stage costs least. cost: of a stage of these blocks.
Cut cheapest_cut(size_t num_blocks, int num_stages,
                 const std::function<double(nn::BlockRange blocks, int stage)>& cost);
// The cut whose slowest stage is fastest.
Cut balanced_cut(const std::vector<BlockCost>& costs, int num_stages, const Mode& mode);

// Times each block by itself at the shapes that it is given in training, on this thread, and weighs
// its graph, where memory is counted (base/memory.h). The parameters of one block lie in memory at
// a time; those that the model had are lost to it.
std::vector<BlockCost> measure_blocks(nn::Model& model, const at::Tensor& input,
                                      const at::Tensor& target, const BatchForm& form,
                                      bool autocasts = false);

}  // namespace outstep::engine
