#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "outstep/engine/pipeline/cut.h"
#include "outstep/engine/pipeline/mode.h"
#include "outstep/engine/pipeline/pipeline.h"
#include "outstep/engine/pipeline/schedule.h"

// How much memory stages need, and what they send each other, by formula: for `outstep plan`.

namespace outstep::engine {

// Numbers, not bytes.
struct BlockSize {
  std::string name;
  bool is_reversible = false;
  int64_t num_parameters = 0;
  int64_t num_buffers = 0;
  int64_t input_x = 0;      // of one example: the first stream, or the only one
  int64_t input_other = 0;  // the second one, or 0

  int64_t input() const { return input_x + input_other; }
};

// Evaluates the model at one example, block by block, whose parameters are placed one after
// another: those that the model had are lost to it.
std::vector<BlockSize> measure_sizes(nn::Model& model);

struct StageBytes {
  int64_t parameters = 0;
  int64_t gradients = 0;
  int64_t kept = 0;     // inputs of micro-batches in flight, and of graphs, but not what these hold
  int64_t stashed = 0;  // copies of the parameters

  int64_t total() const { return parameters + gradients + kept + stashed; }
};

// Of a stage with micro-batches of a size, k of them an update.
struct FootprintOptions {
  int64_t micro_batch = 1;
  int64_t k = 1;
  // Of modes in ticks; those that flush do so every k.
  int64_t flush_every = Program::kNever;
  int64_t credits = 0;     // of stages that run freely; 0: they go in ticks
  int64_t item_bytes = 4;  // float32, or float64
};
FootprintOptions footprint_options(const PipelineOptions& options, int64_t micro_batch, int64_t k);
Schedule schedule_of(const Mode& mode, int num_stages, const FootprintOptions& options);
StageBytes stage_bytes(const std::vector<BlockSize>& sizes, const Cut& cut, int stage,
                       const Mode& mode, const FootprintOptions& options);

// What a stage's graphs hold at most, where blocks' graphs were measured: of all micro-batches in
// flight where the mode keeps graphs, else the one that backward makes, of the stage or of a block.
// Their beginnings are among the kept inputs.
int64_t graph_bytes(const std::vector<BlockCost>& costs, const Cut& cut, int stage,
                    const Mode& mode, const FootprintOptions& options);
// Micro-batches whose graph of the whole stage is kept until they go back.
int64_t num_graphs(const Cut& cut, int stage, const Mode& mode, const FootprintOptions& options);

// What a stage sends its neighbours for a micro-batch, headers included.
struct StageTraffic {
  int64_t to_next = 0;
  int64_t to_previous = 0;
};
StageTraffic stage_traffic(const std::vector<BlockSize>& sizes, const Cut& cut, int stage,
                           const Mode& mode, const FootprintOptions& options);

// The cut whose largest stage, all of that together, is smallest.
Cut lightest_cut(const std::vector<BlockSize>& sizes, int num_stages, const Mode& mode,
                 const FootprintOptions& options);

// The whole pipeline's memory as Table 3 of the paper has it, every block a stage of its own:
// parameters, buffers and the input of each stage, τ_j more inputs where they are buffered (of
// stages that are not reversible always, but for the first), and ⌈τ_j / k⌉ copies of the parameters
// where they are stashed. Inputs of reversible stages and of the head count one stream.
struct Table3Row {
  bool buffers_inputs = false;
  bool buffers_parameters = false;
};
int64_t table3_bytes(const std::vector<BlockSize>& sizes, const Table3Row& row,
                     const FootprintOptions& options);

}  // namespace outstep::engine
