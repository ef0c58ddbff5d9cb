#include "outstep/engine/pipeline/footprint.h"

#include <algorithm>

#include "outstep/engine/pipeline/message.h"

namespace outstep::engine {
namespace {

int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct StagePlace {
  nn::BlockRange blocks = {};
  int index = 0;
  int num_stages = 1;

  bool is_last() const { return index + 1 == num_stages; }
};

Keep keep_of(const Mode& mode, bool is_last) {
  return is_last && mode.last_keeps_graph ? Keep::graph : mode.buffering.keep;
}

StageBytes bytes_of(const std::vector<BlockSize>& sizes, const StagePlace& place, const Mode& mode,
                    const FootprintOptions& options) {
  const nn::BlockRange& blocks = place.blocks;
  const bool is_last = place.is_last();
  const Schedule schedule = schedule_of(mode, place.num_stages, options);
  const Keep keep = keep_of(mode, is_last);
  const auto keeps_input = [&](size_t b) {
    if (keep == Keep::nothing && !sizes[b].is_reversible) return true;
    // A last stage's head has its graph always, which begins with its input.
    const bool begins_graph = is_last && keep != Keep::graph && b + 1 == blocks.end;
    return begins_graph || (keep != Keep::nothing && b == blocks.begin);
  };
  StageBytes bytes;
  int64_t inputs = 0;  // numbers, of one example
  for (size_t b = blocks.begin; b < blocks.end; ++b) {
    bytes.parameters += sizes[b].num_parameters * options.item_bytes;
    if (!keeps_input(b)) continue;
    inputs += sizes[b].input();
    // A coupling hands on its first stream as the second one: the same tensor.
    const bool shares = b > blocks.begin && keeps_input(b - 1) && sizes[b - 1].is_reversible;
    if (shares) inputs -= sizes[b - 1].input_x;
  }
  bytes.gradients = bytes.parameters;
  const int64_t in_flight = schedule.most_in_flight(place.index);
  bytes.kept = inputs * options.micro_batch * in_flight * options.item_bytes;
  if (mode.buffering.stashes() && !is_last) {
    bytes.stashed = bytes.parameters * (schedule.most_staleness(place.index, options.k) + 1);
  }
  return bytes;
}

}  // namespace

std::vector<BlockSize> measure_sizes(nn::Model& model) {
  const at::NoGradGuard no_grad;
  nn::Streams streams{.x = model.example_input(1)};
  nn::ForwardContext context;
  std::vector<BlockSize> sizes;
  for (size_t b = 0; b < model.blocks.size(); ++b) {
    nn::Block& block = *model.blocks[b];
    const nn::FlatParams params(model, 1, {.blocks = {.begin = b, .end = b + 1}});
    sizes.push_back({.name = block.name(),
                     .is_reversible = block.is_reversible(),
                     .num_parameters = params.num_parameters(),
                     .num_buffers = params.buffers().numel(),
                     .input_x = streams.x.numel(),
                     .input_other = streams.are_two() ? streams.other.numel() : 0});
    streams = block.forward(streams, context);
    nn::forget_tensors(block);
  }
  return sizes;
}

FootprintOptions footprint_options(const PipelineOptions& options, int64_t micro_batch, int64_t k) {
  return {.micro_batch = micro_batch,
          .k = k,
          .flush_every = options.mode.flushes() ? Program::kNever : options.flush_every,
          .credits = options.credits,
          .item_bytes = static_cast<int64_t>(at::elementSize(dtype_of(options.precision)))};
}

Schedule schedule_of(const Mode& mode, int num_stages, const FootprintOptions& options) {
  return {.order = mode.order,
          .num_stages = num_stages,
          .flush_every = mode.flushes() ? options.k : options.flush_every,
          .credits = mode.flushes() ? 0 : options.credits};
}

StageBytes stage_bytes(const std::vector<BlockSize>& sizes, const Cut& cut, int stage,
                       const Mode& mode, const FootprintOptions& options) {
  return bytes_of(sizes,
                  {.blocks = blocks_of(cut, stage), .index = stage, .num_stages = int(cut.size())},
                  mode, options);
}

int64_t num_graphs(const Cut& cut, int stage, const Mode& mode, const FootprintOptions& options) {
  const int num_stages = static_cast<int>(cut.size());
  if (keep_of(mode, stage + 1 == num_stages) != Keep::graph) return 0;
  return schedule_of(mode, num_stages, options).most_in_flight(stage);
}

int64_t graph_bytes(const std::vector<BlockCost>& costs, const Cut& cut, int stage,
                    const Mode& mode, const FootprintOptions& options) {
  const int num_stages = static_cast<int>(cut.size());
  const bool is_last = stage + 1 == num_stages;
  const Keep keep = keep_of(mode, is_last);
  nn::BlockRange blocks = blocks_of(cut, stage);
  // Of the stage's blocks but for a head that has a graph of its own.
  const int64_t of_head = is_last && keep != Keep::graph ? costs[--blocks.end].graph_bytes : 0;
  int64_t all = 0, largest = 0;
  for (size_t b = blocks.begin; b < blocks.end; ++b) {
    all += costs[b].graph_bytes;
    largest = std::max(largest, costs[b].graph_bytes);
  }
  const int64_t in_flight = schedule_of(mode, num_stages, options).most_in_flight(stage);
  if (keep == Keep::graph) return all * in_flight;
  const int64_t made_again = keep == Keep::input ? all : largest;
  // A head's graph is gone when the blocks before it have theirs.
  return of_head * (in_flight - 1) + std::max(of_head, made_again);
}

StageTraffic stage_traffic(const std::vector<BlockSize>& sizes, const Cut& cut, int stage,
                           const Mode& mode, const FootprintOptions& options) {
  constexpr int64_t kHeaderBytes = kHeaderSize * static_cast<int64_t>(sizeof(int64_t));
  const nn::BlockRange blocks = blocks_of(cut, stage);
  const int64_t item_bytes = options.micro_batch * options.item_bytes;
  StageTraffic traffic;
  if (blocks.end < sizes.size()) {
    traffic.to_next = kHeaderBytes + sizes[blocks.end].input() * item_bytes;
  }
  if (stage == 0) return traffic;
  // The input's gradient, and the input itself where the stage before rebuilds from it.
  const bool is_of_use =
      mode.buffering.keep == Keep::nothing && sizes[blocks.begin - 1].is_reversible;
  traffic.to_previous =
      kHeaderBytes + sizes[blocks.begin].input() * (is_of_use ? 2 : 1) * item_bytes;
  return traffic;
}

Cut lightest_cut(const std::vector<BlockSize>& sizes, int num_stages, const Mode& mode,
                 const FootprintOptions& options) {
  return cheapest_cut(sizes.size(), num_stages, [&](nn::BlockRange blocks, int stage) {
    const StagePlace place{.blocks = blocks, .index = stage, .num_stages = num_stages};
    return static_cast<double>(bytes_of(sizes, place, mode, options).total());
  });
}

int64_t table3_bytes(const std::vector<BlockSize>& sizes, const Table3Row& row,
                     const FootprintOptions& options) {
  const Schedule schedule{.order = Order::ticks, .num_stages = static_cast<int>(sizes.size())};
  int64_t total = 0;
  for (size_t j = 0; j < sizes.size(); ++j) {
    const BlockSize& block = sizes[j];
    const bool is_head = j + 1 == sizes.size();
    const int64_t streams = block.is_reversible || is_head ? block.input_x : block.input();
    const int64_t input = streams * options.micro_batch;
    const int64_t delay = schedule.delay(static_cast<int>(j));  // τ_j
    total += block.num_parameters + block.num_buffers + input;
    if (row.buffers_inputs || (!block.is_reversible && j > 0)) total += input * delay;
    if (row.buffers_parameters) total += block.num_parameters * ceiling(delay, options.k);
  }
  return total * options.item_bytes;
}

}  // namespace outstep::engine
