#include "outstep/train/pipeline_plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "outstep/engine/pipeline/clock.h"
#include "outstep/engine/pipeline/pipeline.h"

namespace outstep::train {
namespace {

constexpr size_t kPictureColumns = 96;
constexpr double kCellsAForward = 1;  // of the picture, to the quickest forward pass of a stage

std::vector<engine::BlockCost> costs_of(const Assembly& assembly,
                                        const engine::PipelineOptions& options, int64_t micro_batch,
                                        bool measure) {
  if (measure) return measure_costs(options, micro_batch, assembly);
  std::vector<engine::BlockCost> costs;
  for (const auto& block : assembly.model->blocks) {
    costs.push_back(
        {.forward_seconds = 1, .backward_seconds = 2, .is_reversible = block->is_reversible()});
  }
  return costs;
}

double seconds_of_backprop(const std::vector<engine::BlockCost>& costs) {
  double seconds = 0;
  for (const engine::BlockCost& cost : costs) {
    seconds += cost.forward_seconds + cost.backward_seconds;
  }
  return seconds;
}

engine::Timeline timeline_of(const engine::Mode& mode, const std::vector<engine::BlockCost>& costs,
                             const Assembly& assembly, int64_t flush_every,
                             int64_t num_micro_batches) {
  const engine::Schedule schedule{
      .order = mode.order, .num_stages = assembly.mesh.stages, .flush_every = flush_every};
  return engine::simulate(schedule, engine::pass_times(costs, assembly.cut, mode), 0,
                          num_micro_batches);
}

PipelinePlan::Mode plan_mode(const engine::Mode& mode, const std::vector<engine::BlockCost>& costs,
                             const std::vector<engine::BlockSize>& sizes, const Assembly& assembly,
                             const engine::FootprintOptions& footprint, int64_t flush_every) {
  // Several flushes, or steps, of which the first ones fill the pipeline.
  const int64_t unit = flush_every == engine::Program::kNever ? footprint.k : flush_every;
  const int64_t filling = (4 * assembly.mesh.stages + unit - 1) / unit * unit;
  const auto timeline = timeline_of(mode, costs, assembly, flush_every, 2 * filling);
  PipelinePlan::Mode plan{.name = mode.name,
                          .seconds_per_micro_batch = timeline.seconds_per_micro_batch(filling),
                          .bubble_fraction = timeline.bubble_fraction(filling)};
  plan.speed_up = seconds_of_backprop(costs) / plan.seconds_per_micro_batch;
  for (int stage = 0; stage < assembly.mesh.stages; ++stage) {
    const auto bytes = engine::stage_bytes(sizes, assembly.cut, stage, mode, footprint);
    plan.largest_stage_bytes = std::max(plan.largest_stage_bytes, bytes.total());
  }
  return plan;
}

}  // namespace

PipelinePlan plan_pipeline(Recipe& recipe, const Assembly& assembly, bool measure) {
  io::Section section = recipe.settings.section("engine");
  const std::string name = section.text("name", "backprop");
  const auto options =
      engine::PipelineOptions::read(section, name, recipe.train.accumulation, assembly.mesh.stages);
  const engine::FootprintOptions footprint{.micro_batch = assembly.stream->options().micro_batch,
                                           .k = recipe.train.accumulation,
                                           .credits = options.credits};
  const auto sizes = engine::measure_sizes(*assembly.model);
  const auto costs = costs_of(assembly, options, footprint.micro_batch, measure);

  PipelinePlan plan;
  plan.is_measured = measure;
  plan.is_free = options.credits > 0;
  const auto times = engine::pass_times(costs, assembly.cut, options.mode);
  const engine::Schedule schedule{.order = options.mode.order,
                                  .num_stages = assembly.mesh.stages,
                                  .flush_every = options.flush_every,
                                  .credits = options.credits};
  double quickest = times.front().forward_seconds;
  for (int stage = 0; stage < assembly.mesh.stages; ++stage) {
    const auto s = static_cast<size_t>(stage);
    quickest = std::min(quickest, times[s].forward_seconds);
    plan.stages.push_back(
        {.num_blocks = assembly.cut[s],
         .forward_seconds = times[s].forward_seconds,
         .backward_seconds = times[s].backward_seconds,
         .delay_ticks = schedule.delay(stage),
         .bytes = engine::stage_bytes(sizes, assembly.cut, stage, options.mode, footprint)});
  }
  const int64_t unit =
      options.flush_every == engine::Program::kNever ? footprint.k : options.flush_every;
  const int64_t shown = (12 + unit - 1) / unit * unit;
  plan.picture = timeline_of(options.mode, costs, assembly, options.flush_every, shown)
                     .picture(quickest / kCellsAForward, kPictureColumns);
  for (engine::Mode mode : engine::pipeline_modes()) {
    const bool is_recipes = mode.name == name;
    if (is_recipes) mode = options.mode;
    const int64_t flush_every = is_recipes       ? options.flush_every
                                : mode.flushes() ? footprint.k
                                                 : engine::Program::kNever;
    plan.modes.push_back(plan_mode(mode, costs, sizes, assembly, footprint, flush_every));
    plan.modes.back().is_recipes = is_recipes;
  }
  const bool is_reversible = std::ranges::any_of(sizes, &engine::BlockSize::is_reversible);
  for (int i = 0; is_reversible && i < 4; ++i) {
    plan.table3_bytes.push_back(
        engine::table3_bytes(sizes, {.buffers_inputs = i < 2, .buffers_parameters = i % 2 == 0},
                             {.micro_batch = footprint.micro_batch, .k = 1}));
  }
  return plan;
}

nlohmann::ordered_json PipelinePlan::to_json() const {
  nlohmann::ordered_json json;
  json["is_measured"] = is_measured;
  json["is_free"] = is_free;
  for (const Stage& stage : stages) {
    json["stages"].push_back({{"blocks", stage.num_blocks},
                              {"forward_seconds", stage.forward_seconds},
                              {"backward_seconds", stage.backward_seconds},
                              {"delay_ticks", stage.delay_ticks},
                              {"parameter_bytes", stage.bytes.parameters},
                              {"gradient_bytes", stage.bytes.gradients},
                              {"kept_bytes", stage.bytes.kept},
                              {"stashed_bytes", stage.bytes.stashed}});
  }
  for (const Mode& mode : modes) {
    json["modes"].push_back({{"name", mode.name},
                             {"is_recipes", mode.is_recipes},
                             {"seconds_per_micro_batch", mode.seconds_per_micro_batch},
                             {"bubble_fraction", mode.bubble_fraction},
                             {"speed_up", mode.speed_up},
                             {"largest_stage_bytes", mode.largest_stage_bytes}});
  }
  json["picture"] = picture;
  if (!table3_bytes.empty()) json["table3_bytes"] = table3_bytes;
  return json;
}

}  // namespace outstep::train
