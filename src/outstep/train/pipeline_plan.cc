#include "outstep/train/pipeline_plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "outstep/engine/pipeline/clock.h"

namespace outstep::train {
namespace {

constexpr size_t kPictureColumns = 96;
constexpr double kCellsAForward = 1;  // of the picture, to the quickest forward pass of a stage
constexpr double kFewestTicks = 3;    // of the slowest stage, that the picture shows

// All that stages are planned from.
struct Given {
  const engine::Cut& cut;
  std::vector<engine::BlockSize> sizes;
  std::vector<engine::BlockCost> costs;
  engine::FootprintOptions footprint;

  int num_stages() const { return static_cast<int>(cut.size()); }
};

double seconds_of_backprop(const std::vector<engine::BlockCost>& costs) {
  double seconds = 0;
  for (const engine::BlockCost& cost : costs) {
    seconds += cost.forward_seconds + cost.backward_seconds;
  }
  return seconds;
}

// Units know no link.
std::vector<engine::PassTimes> times_of(const engine::Mode& mode, const Given& given,
                                        const PipelinePlan& plan) {
  auto times = engine::pass_times(given.costs, given.cut, mode);
  for (int stage = 0; plan.is_measured && stage < given.num_stages(); ++stage) {
    const auto sent = engine::stage_traffic(given.sizes, given.cut, stage, mode, given.footprint);
    times[static_cast<size_t>(stage)].to_next_seconds = plan.link_seconds(sent.to_next);
    times[static_cast<size_t>(stage)].to_previous_seconds = plan.link_seconds(sent.to_previous);
  }
  return times;
}

// In ticks, where stages run freely too.
engine::Schedule clock_schedule(const engine::Mode& mode, const Given& given) {
  engine::Schedule schedule = engine::schedule_of(mode, given.num_stages(), given.footprint);
  schedule.credits = 0;
  return schedule;
}

// Micro-batches, at least so many, after which a schedule may end: whole flushes, or steps.
int64_t whole_units(int64_t num_micro_batches, const engine::Schedule& schedule,
                    const Given& given) {
  const int64_t unit =
      schedule.flush_every == engine::Program::kNever ? given.footprint.k : schedule.flush_every;
  return (num_micro_batches + unit - 1) / unit * unit;
}

PipelinePlan::Stage plan_stage(int stage, const engine::Mode& mode, const Given& given,
                               const engine::PassTimes& times) {
  const auto schedule = engine::schedule_of(mode, given.num_stages(), given.footprint);
  return {.num_blocks = given.cut[static_cast<size_t>(stage)],
          .forward_seconds = times.forward_seconds,
          .backward_seconds = times.backward_seconds,
          .delay_ticks = schedule.delay(stage),
          .staleness = schedule.staleness(stage, given.footprint.k),
          .sent = engine::stage_traffic(given.sizes, given.cut, stage, mode, given.footprint),
          .bytes = engine::stage_bytes(given.sizes, given.cut, stage, mode, given.footprint),
          .graph_bytes = engine::graph_bytes(given.costs, given.cut, stage, mode, given.footprint)};
}

PipelinePlan::Mode plan_mode(const engine::Mode& mode, const Given& given,
                             const std::vector<engine::PassTimes>& times) {
  const engine::Schedule schedule = clock_schedule(mode, given);
  // Of which the first ones fill the pipeline.
  const int64_t filling = whole_units(4 * given.num_stages(), schedule, given);
  const auto timeline = engine::simulate(schedule, times, 2 * filling);
  PipelinePlan::Mode plan;
  plan.name = mode.name;
  plan.seconds_per_micro_batch = timeline.seconds_per_micro_batch(filling);
  plan.bubble_fraction = timeline.bubble_fraction(filling);
  plan.speed_up = seconds_of_backprop(given.costs) / plan.seconds_per_micro_batch;
  for (int s = 0; s < given.num_stages(); ++s) {
    const auto stage = plan_stage(s, mode, given, times[static_cast<size_t>(s)]);
    if (s == 0) plan.delay_ticks = stage.delay_ticks;
    if (s == 0) plan.staleness = stage.staleness;
    plan.stage_bytes.push_back(stage.bytes.total() + stage.graph_bytes);
    plan.num_graphs.push_back(engine::num_graphs(given.cut, s, mode, given.footprint));
  }
  return plan;
}

// From the start, unless that would show little but how the pipeline fills.
void draw(PipelinePlan& plan, const engine::Mode& mode, const Given& given,
          const std::vector<engine::PassTimes>& times) {
  const engine::Schedule schedule = clock_schedule(mode, given);
  // As many as the columns hold, after those that fill the pipeline.
  const int64_t shown = whole_units(12 + 2 * given.num_stages(), schedule, given);
  const auto timeline = engine::simulate(schedule, times, shown);
  double quickest = times.front().forward_seconds, slowest_tick = 0;
  for (const engine::PassTimes& stage : times) {
    quickest = std::min(quickest, stage.forward_seconds);
    slowest_tick = std::max(slowest_tick, stage.forward_seconds + stage.backward_seconds);
  }
  constexpr double kCells = kPictureColumns / 4.0;  // of four columns, as "B10 " takes
  const double cell_seconds =
      std::max(quickest / kCellsAForward, kFewestTicks * slowest_tick / kCells);
  const double filling = timeline.filling_seconds();
  if (!mode.flushes() && filling > kCells * cell_seconds / 2) plan.picture_from_seconds = filling;
  plan.picture = timeline.picture(cell_seconds, kPictureColumns, plan.picture_from_seconds);
}

}  // namespace

CostSource plan_costs(bool measure) {
  const auto found = std::make_shared<std::vector<engine::BlockCost>>();
  const auto find = [found, measure](const engine::PipelineOptions& options, int64_t micro_batch,
                                     const Assembly& assembly) {
    if (found->empty()) {
      *found = measure ? measure_costs(options, micro_batch, assembly)
                       : engine::unit_costs(*assembly.model);
    }
    return *found;
  };
  return {.find = find, .origin = measure ? "measured" : "not measured"};
}

PipelinePlan plan_pipeline(Recipe& recipe, const Assembly& assembly,
                           const PipelinePlanOptions& options) {
  io::Section section = recipe.settings.section("engine");
  const std::string name = section.text("name", "backprop");
  const auto pipeline =
      engine::PipelineOptions::read(section, name, recipe.train.accumulation, assembly.mesh.stages);
  const int64_t micro_batch = assembly.stream->options().micro_batch;
  const Given given{
      .cut = assembly.cut,
      .sizes = engine::measure_sizes(*assembly.model),
      .costs = options.costs.find(pipeline, micro_batch, assembly),
      .footprint = engine::footprint_options(pipeline, micro_batch, recipe.train.accumulation)};

  PipelinePlan plan;
  plan.is_measured = options.is_measured;
  plan.is_free = pipeline.credits > 0;
  plan.link_bits_per_second = options.link_bits_per_second;
  const auto times = times_of(pipeline.mode, given, plan);
  for (int stage = 0; stage < given.num_stages(); ++stage) {
    plan.stages.push_back(
        plan_stage(stage, pipeline.mode, given, times[static_cast<size_t>(stage)]));
  }
  draw(plan, pipeline.mode, given, times);
  for (engine::Mode mode : engine::pipeline_modes()) {
    const bool is_recipes = mode.name == name;
    if (is_recipes) mode = pipeline.mode;
    plan.modes.push_back(plan_mode(mode, given, times_of(mode, given, plan)));
    plan.modes.back().is_recipes = is_recipes;
  }
  const bool is_reversible = std::ranges::any_of(given.sizes, &engine::BlockSize::is_reversible);
  for (int i = 0; is_reversible && i < 4; ++i) {
    plan.table3_bytes.push_back(engine::table3_bytes(
        given.sizes, {.buffers_inputs = i < 2, .buffers_parameters = i % 2 == 0},
        {.micro_batch = micro_batch, .k = 1}));
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
                              {"staleness_updates", stage.staleness},
                              {"to_next_bytes", stage.sent.to_next},
                              {"to_previous_bytes", stage.sent.to_previous},
                              {"parameter_bytes", stage.bytes.parameters},
                              {"gradient_bytes", stage.bytes.gradients},
                              {"kept_bytes", stage.bytes.kept},
                              {"stashed_bytes", stage.bytes.stashed}});
    auto& last = json["stages"].back();
    if (is_measured) last["graph_bytes"] = stage.graph_bytes;
    if (!link_bits_per_second) continue;
    last["to_next_seconds"] = link_seconds(stage.sent.to_next);
    last["to_previous_seconds"] = link_seconds(stage.sent.to_previous);
  }
  for (const Mode& mode : modes) {
    json["modes"].push_back({{"name", mode.name},
                             {"is_recipes", mode.is_recipes},
                             {"seconds_per_micro_batch", mode.seconds_per_micro_batch},
                             {"bubble_fraction", mode.bubble_fraction},
                             {"speed_up", mode.speed_up},
                             {"delay_ticks", mode.delay_ticks},
                             {"staleness_updates", mode.staleness},
                             {"stage_bytes", mode.stage_bytes},
                             {"largest_stage_bytes", mode.largest_stage_bytes()},
                             {"graphs_kept", mode.num_graphs}});
  }
  json["picture"] = picture;
  json["picture_from_seconds"] = picture_from_seconds;
  if (!table3_bytes.empty()) json["table3_bytes"] = table3_bytes;
  return json;
}

}  // namespace outstep::train
