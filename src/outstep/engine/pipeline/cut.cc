#include "outstep/engine/pipeline/cut.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <numeric>
#include <optional>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/memory.h"
#include "outstep/engine/autocast.h"
#include "outstep/nn/coupling.h"

namespace outstep::engine {
namespace {

constexpr int kRepetitions = 3;     // of a timing; the shortest counts
constexpr double kLongSeconds = 1;  // what takes longer is not repeated

double shortest_seconds(const std::function<void()>& work) {
  const auto first = Clock::now();
  work();  // what kernels make once
  double shortest = seconds_since(first);
  if (shortest > kLongSeconds) return shortest;
  for (int i = 0; i < kRepetitions; ++i) {
    const auto begin = Clock::now();
    work();
    shortest = std::min(shortest, seconds_since(begin));
  }
  return shortest;
}

// Somewhere to go back from.
nn::Streams as_gradient(const nn::Streams& streams) {
  const auto ones = [](const at::Tensor& tensor) {
    return tensor.defined() ? at::ones_like(tensor) : tensor;
  };
  return {.x = ones(streams.x), .other = ones(streams.other)};
}

// A parameter that two stages of a cut share.
struct Tie {
  std::string parameter;
  std::array<int, 2> stages = {};
};

std::optional<Tie> find_tie(const nn::Model& model, const Cut& cut) {
  std::map<const nn::Parameter*, int> owner;
  for (int stage = 0; stage < std::ssize(cut); ++stage) {
    const nn::BlockRange blocks = blocks_of(cut, stage);
    for (size_t b = blocks.begin; b < blocks.end; ++b) {
      for (const nn::Parameter* parameter : model.blocks[b]->parameters()) {
        const auto [found, is_new] = owner.try_emplace(parameter, stage);
        if (!is_new && found->second != stage) {
          return Tie{.parameter = parameter->name, .stages = {found->second, stage}};
        }
      }
    }
  }
  return std::nullopt;
}

}  // namespace

nn::BlockRange blocks_of(const Cut& cut, int stage) {
  const auto begin = std::accumulate(cut.begin(), cut.begin() + stage, int64_t{0});
  return {.begin = static_cast<size_t>(begin),
          .end = static_cast<size_t>(begin + cut[static_cast<size_t>(stage)])};
}

void require_enough_blocks(const nn::Model& model, int num_stages, const std::string& origin) {
  if (num_stages <= std::ssize(model.blocks)) return;
  throw ConfigError(
      "{}: mesh.stages = {} is more than the {} blocks of model \"{}\"; every stage needs one",
      origin, num_stages, model.blocks.size(), model.family());
}

void require_untied(const nn::Model& model, const std::string& origin) {
  const Cut all_apart(model.blocks.size(), 1);
  const auto tie = find_tie(model, all_apart);
  if (!tie) return;
  throw ConfigError(
      "{}: parameter \"{}\" is tied across blocks {} and {}, and a stage's parameters are its own; "
      "untie it (model.tie_word_embeddings = false), use mesh.stages = 1, or cut by hand so that "
      "one stage has both (engine.stages)",
      origin, tie->parameter, tie->stages[0], tie->stages[1]);
}

void require_cuts(const nn::Model& model, const Cut& cut, int num_stages,
                  const std::string& origin) {
  require_enough_blocks(model, num_stages, origin);
  const auto num_blocks = std::ssize(model.blocks);
  if (std::ssize(cut) != num_stages) {
    throw ConfigError("{}: engine.stages has {} {}, but mesh.stages is {}", origin, cut.size(),
                      cut.size() == 1 ? "number" : "numbers", num_stages);
  }
  if (std::ranges::any_of(cut, [](int64_t blocks) { return blocks < 1; }) ||
      std::accumulate(cut.begin(), cut.end(), int64_t{0}) != num_blocks) {
    throw ConfigError(
        "{}: engine.stages = [{}] must be numbers of blocks, 1 or more each, that add up to the {} "
        "of model \"{}\"",
        origin, fmt::join(cut, ", "), num_blocks, model.family());
  }
  if (const auto tie = find_tie(model, cut)) {
    throw ConfigError(
        "{}: parameter \"{}\" is tied across stages {} and {}, and a stage's parameters are its "
        "own; untie it (model.tie_word_embeddings = false) or use mesh.stages = 1",
        origin, tie->parameter, tie->stages[0], tie->stages[1]);
  }
}

std::vector<BlockCost> unit_costs(const nn::Model& model) {
  std::vector<BlockCost> costs;
  for (const auto& block : model.blocks) {
    costs.push_back(
        {.forward_seconds = 1, .backward_seconds = 2, .is_reversible = block->is_reversible()});
  }
  return costs;
}

double stage_seconds(const std::vector<BlockCost>& costs, nn::BlockRange blocks, const Mode& mode,
                     bool is_last) {
  const bool keeps_graph = mode.buffering.keep == Keep::graph || (is_last && mode.last_keeps_graph);
  double seconds = 0;
  for (size_t b = blocks.begin; b < blocks.end; ++b) {
    int num_evaluations = 1;
    // The head of a last stage keeps its graph always.
    if (!keeps_graph && !(is_last && b + 1 == blocks.end)) {
      ++num_evaluations;
      // Rebuilding gives the graph too, unless it is wanted at other parameters.
      const Buffering& buffering = mode.buffering;
      const bool rebuilds = buffering.keep == Keep::nothing && costs[b].is_reversible;
      if (rebuilds && buffering.rebuild != buffering.differentiate && !is_last) ++num_evaluations;
    }
    seconds += num_evaluations * costs[b].forward_seconds + costs[b].backward_seconds;
  }
  return seconds;
}

Cut balanced_cut(const std::vector<BlockCost>& costs, int num_stages, const Mode& mode) {
  return cheapest_cut(costs.size(), num_stages, [&](nn::BlockRange blocks, int stage) {
    return stage_seconds(costs, blocks, mode, stage + 1 == num_stages);
  });
}

Cut cheapest_cut(size_t num_blocks, int num_stages,
                 const std::function<double(nn::BlockRange blocks, int stage)>& cost) {
  const auto stages = static_cast<size_t>(num_stages);
  check(stages >= 1 && stages <= num_blocks, "every stage gets a block");
  constexpr double kNone = std::numeric_limits<double>::infinity();
  // highest[s][b]: of the best cut of the first b blocks into s stages.
  std::vector<std::vector<double>> highest(stages + 1, std::vector<double>(num_blocks + 1, kNone));
  std::vector<std::vector<size_t>> begins(stages + 1, std::vector<size_t>(num_blocks + 1, 0));
  highest[0][0] = 0;
  for (size_t s = 1; s <= stages; ++s) {
    const bool is_last = s == stages;
    for (size_t end = is_last ? num_blocks : s; end <= num_blocks; ++end) {
      for (size_t begin = s - 1; begin < end; ++begin) {
        if (highest[s - 1][begin] == kNone) continue;
        const double of_stage = cost({.begin = begin, .end = end}, static_cast<int>(s) - 1);
        const double of_cut = std::max(highest[s - 1][begin], of_stage);
        if (of_cut >= highest[s][end]) continue;
        highest[s][end] = of_cut;
        begins[s][end] = begin;
      }
    }
  }
  Cut cut(stages);
  size_t end = num_blocks;
  for (size_t s = stages; s >= 1; --s) {
    cut[s - 1] = static_cast<int64_t>(end - begins[s][end]);
    end = begins[s][end];
  }
  return cut;
}

std::vector<BlockCost> measure_blocks(nn::Model& model, const at::Tensor& input,
                                      const at::Tensor& target, const BatchForm& form,
                                      bool autocasts) {
  const at::AutoGradMode grad_mode(true);
  const data::Batch batch = placed({.inputs = input, .targets = target}, form);
  nn::Streams streams{.x = batch.inputs};
  std::vector<BlockCost> costs;
  for (size_t b = 0; b < model.blocks.size(); ++b) {
    nn::Block& block = *model.blocks[b];
    const bool is_head = b + 1 == model.blocks.size();
    // Tied parameters are placed twice: what counts is their size.
    const nn::FlatParams params(
        model, /*seed=*/1,
        {.device = form.device, .dtype = form.dtype, .blocks = {.begin = b, .end = b + 1}});
    nn::ForwardContext context{.training = true};
    nn::Streams output;
    BlockCost cost{.is_reversible = block.is_reversible()};
    const double both = shortest_seconds([&] {
      output = {};
      const int64_t bytes_before = memory::live_bytes();
      const nn::Streams leaves = nn::as_leaves(streams);
      at::Tensor loss;
      {
        const Autocast autocast(autocasts, form.device);
        output = block.forward(leaves, context);
        if (is_head) loss = model.loss(output.x, batch.targets).loss;
      }
      cost.graph_bytes = memory::live_bytes() - bytes_before;
      if (is_head) {
        torch::autograd::backward({loss}, {});
      } else {
        nn::backward(output, as_gradient(output));
      }
    });
    cost.forward_seconds = shortest_seconds([&] {
      const at::NoGradGuard no_grad;
      const Autocast autocast(autocasts, form.device);
      output = block.forward(streams, context);
    });
    cost.backward_seconds = std::max(both - cost.forward_seconds, 0.0);
    costs.push_back(cost);
    streams = output;
    nn::forget_tensors(block);
  }
  return costs;
}

}  // namespace outstep::engine
