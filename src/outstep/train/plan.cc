#include "outstep/train/plan.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "outstep/base/clock.h"
#include "outstep/base/memory.h"
#include "outstep/method/committing.h"
#include "outstep/train/phantom.h"
#include "outstep/train/tables.h"

namespace outstep::train {
namespace {

constexpr double kLongSeconds = 10;  // what takes longer is not repeated for a better timing

// Calls it once, and if that was short once more, when kernels have made what they make once.
// Seconds of the last call.
double seconds_of(const std::function<void()>& work) {
  double seconds = 0;
  for (int i = 0; i < 2; ++i) {
    const auto begin = Clock::now();
    work();
    seconds = seconds_since(begin);
    if (seconds > kLongSeconds) break;
  }
  return seconds;
}

// Two micro-batches where there are two: a step of several rounds needs one for each.
method::StepContext first_step(const Assembly& assembly, const Recipe& recipe) {
  return {.step = 0,
          .lr = assembly.schedule.at(0),
          .accumulation = std::min<int64_t>(recipe.train.accumulation, 2),
          .clip_norm = recipe.train.clip_norm,
          .tracer = nullptr};
}

void time_micro_batch(method::GradientEngine& engine, MachinePace& pace) {
  std::optional<Clock::time_point> first_ready;
  const method::RangeAnnouncements announcements(engine);
  pace.replica.micro_batch_seconds = seconds_of([&] {
    first_ready.reset();
    engine.on_range_ready([&](int64_t, int64_t) {
      if (!first_ready) first_ready = Clock::now();
    });
    pace.units_per_micro_batch = engine.accumulate().units;
    pace.replica.ready_seconds = first_ready ? seconds_since(*first_ready) : 0;
  });
  // Backward takes about twice as long as forward, and begins before the first final gradient.
  const double seconds = pace.replica.micro_batch_seconds;
  pace.replica.forward_seconds = std::min(seconds / 3, seconds - pace.replica.ready_seconds);
}

// Of the shard of a replica, at a learning rate of 0.
void time_update(Assembly& assembly, MachinePace& pace) {
  const optim::Optimizer& optimizer = *assembly.optimizer;
  const nn::FlatParams& params = *assembly.params;
  const optim::Range range{0, optimizer.cuts_anywhere()
                                  ? method::shards_of(params, *assembly.replica_group).size(0)
                                  : params.size()};
  optim::State state = optimizer.make_state(range, params.values().device());
  const at::Tensor gradient = params.gradients().narrow(0, range.begin, range.size());
  const at::Tensor values = params.values().narrow(0, range.begin, range.size());
  const double seconds = seconds_of([&] {
    optim::squared_norm(gradient);
    optimizer.update({.gradient = gradient,
                      .params_in = values,
                      .params_out = values,
                      .state_in = &state,
                      .state_out = &state});
  });
  pace.update_seconds_per_element = seconds / static_cast<double>(range.size());
}

// Also runs all that memory is needed for: steps, a pause, an evaluation.
void run(Assembly& assembly, const Recipe& recipe, MachinePace& pace) {
  const method::StepContext context = first_step(assembly, recipe);
  seconds_of([&] { assembly.sync->step(*assembly.engine, context); });
  assembly.sync->pause(context);
  time_micro_batch(*assembly.engine, pace);
  if (!assembly.data.validation) return;
  const int64_t wanted = recipe.evaluation.batch;
  const int64_t size = wanted > 0 ? wanted : assembly.stream->options().micro_batch;
  assembly.engine->evaluate(data::Sweep(assembly.data.validation, size).batch(0));
}

void count(Plan& plan, const Assembly& assembly) {
  plan.model = assembly.model->family();
  plan.unit = assembly.data.unit;
  plan.num_parameters = assembly.params->num_parameters();
  plan.parameter_bytes = static_cast<int64_t>(assembly.params->values().nbytes());
  plan.gradient_bytes = static_cast<int64_t>(assembly.params->gradients().nbytes());
  plan.optimizer_bytes = assembly.sync->optimizer_bytes();
  plan.communication_bytes = assembly.sync->communication_bytes();
}

double bytes_mixed(const method::Mixer* mixer) {
  return mixer ? mixer->planned_bytes_per_step() : 0;
}

// Of a way of mixing as it is without settings.
double usual_bytes_mixed(const std::string& name, const Recipe& recipe, Assembly& assembly) {
  Recipe other(recipe.name,
               io::Settings::from_text("[ensemble]\nname = \"" + name + "\"\n", "plan"));
  other.train = recipe.train;
  return bytes_mixed(make_mixer(other, assembly).get());
}

// The recipe's own first, then the others as they are without settings; but wash and wash_opt, to
// be compared, with the same ones.
std::vector<Plan::Mixing> plan_mixings(const Recipe& recipe, Assembly& assembly) {
  if (assembly.mesh.members == 1) return {};
  const std::string own = assembly.mixer ? assembly.mixer->name() : "none";
  const double own_bytes = bytes_mixed(assembly.mixer.get());
  std::vector<Plan::Mixing> mixings = {
      {.name = own, .bytes_per_step = own_bytes, .is_recipes = true}};
  const auto shuffles = [](const std::string& name) {
    return name == "wash" || name == "wash_opt";
  };
  for (const std::string& name : ensemble_names()) {
    if (name == own) continue;
    double bytes = usual_bytes_mixed(name, recipe, assembly);
    if (shuffles(name) && shuffles(own))
      bytes *= own_bytes / usual_bytes_mixed(own, recipe, assembly);
    mixings.push_back({.name = name, .bytes_per_step = bytes});
  }
  return mixings;
}

// Members' traffic beside that of the sync. A delayed shuffle travels during the next step, over
// the same link.
void add_mixing(Plan& plan, Recipe& recipe, const Assembly& assembly) {
  const double bytes = bytes_mixed(assembly.mixer.get());
  plan.bytes_sent_per_step += std::llround(bytes);
  if (bytes == 0 || !plan.link_bits_per_second) return;
  const double seconds = bytes * 8 / *plan.link_bits_per_second;
  plan.communication_seconds += seconds;
  if (plan.step_seconds == 0) return;  // not measured
  const bool is_delayed = assembly.mixer->name() == "wash" &&
                          recipe.settings.section("ensemble").flag("delayed", false);
  plan.step_seconds = is_delayed ? std::max(plan.step_seconds, plan.communication_seconds)
                                 : plan.step_seconds + seconds;
}

void take(Plan& plan, const Forecast& own) {
  plan.bytes_sent_per_step = own.bytes_sent_per_step;
  plan.overlapped_bytes = own.overlapped_bytes;
  plan.micro_batches_per_step = own.micro_batches_per_step();
  plan.compute_seconds = own.compute_seconds;
  plan.step_seconds = own.step_seconds();
}

void put_on_link(Plan& plan, const PlanOptions& options) {
  plan.link_bits_per_second = options.link_bits_per_second;
  if (!options.link_bits_per_second) return;
  plan.communication_seconds =
      static_cast<double>(plan.bytes_sent_per_step) * 8 / *options.link_bits_per_second;
}

}  // namespace

Plan make_plan(Recipe& recipe, const data::Places& places, const PlanOptions& options) {
  memory::install();
  const int64_t bytes_before = memory::live_bytes();
  memory::reset_peak();

  const auto fabric = phantom_fabric(recipe.mesh.size());
  const auto assembly = make_groups(recipe, *fabric);
  use_threads(*assembly, fair_threads(recipe.train.threads, recipe.mesh.size()));

  Plan plan;
  const CostSource costs = plan_costs(options.measure);
  plan.missing_data = build(recipe, places, *assembly, nullptr, MissingData::stand_in, costs);
  count(plan, *assembly);
  plan.mixings = plan_mixings(recipe, *assembly);
  if (recipe.mesh.stages > 1) {
    plan.num_parameters = assembly->model->num_parameters();
    plan.micro_batches_per_step = static_cast<double>(recipe.train.accumulation);
    plan.pipeline = plan_pipeline(recipe, *assembly,
                                  {.costs = costs,
                                   .is_measured = options.measure,
                                   .link_bits_per_second = options.link_bits_per_second});
    plan.bytes_sent_per_step =
        assembly->sync->planned_traffic().bytes_sent +
        recipe.train.accumulation * plan.pipeline->stages.front().sent.to_next;
    put_on_link(plan, options);
    add_mixing(plan, recipe, *assembly);
    return plan;
  }
  ForecastOptions forecasting{.link_bits_per_second = options.link_bits_per_second};
  if (options.measure) {
    run(*assembly, recipe, forecasting.pace);
    plan.activation_bytes = memory::peak_bytes() - bytes_before - plan.total_bytes();
    time_update(*assembly, forecasting.pace);
  }
  const Forecast own = forecast(recipe, *assembly, *assembly->sync, forecasting);
  take(plan, own);
  put_on_link(plan, options);
  add_mixing(plan, recipe, *assembly);
  if (!options.link_bits_per_second || !options.measure || recipe.mesh.replicas == 1) return plan;
  assembly->sync.reset();
  plan.comparison = compare(recipe, *assembly, own, forecasting);
  plan.advice = advise(plan.comparison, recipe.train.accumulation);
  return plan;
}

nlohmann::ordered_json Plan::to_json() const {
  nlohmann::ordered_json json;
  json["model"] = model;
  json["num_parameters"] = num_parameters;
  json["parameter_bytes"] = parameter_bytes;
  json["gradient_bytes"] = gradient_bytes;
  json["optimizer_bytes"] = optimizer_bytes;
  json["communication_bytes"] = communication_bytes;
  json["activation_bytes"] = activation_bytes;
  json["total_bytes"] = total_bytes();
  json["bytes_sent_per_step"] = bytes_sent_per_step;
  json["overlapped_bytes"] = overlapped_bytes;
  json["micro_batches_per_step"] = micro_batches_per_step;
  json["compute_seconds"] = compute_seconds;
  if (link_bits_per_second) {
    json["link_bits_per_second"] = *link_bits_per_second;
    json["communication_seconds"] = communication_seconds;
  }
  json["step_seconds"] = step_seconds;
  if (!comparison.empty()) {
    for (const Forecast& forecast : comparison) {
      json["comparison"].push_back(forecast.to_json(unit));
    }
    json["advice"] = advice;
  }
  for (const Mixing& mixing : mixings) {
    json["mixings"].push_back({{"name", mixing.name},
                               {"bytes_per_step", mixing.bytes_per_step},
                               {"is_recipes", mixing.is_recipes}});
  }
  if (pipeline) json["pipeline"] = pipeline->to_json();
  json["is_data_here"] = missing_data.empty();
  if (!missing_data.empty()) json["missing_data"] = missing_data;
  return json;
}

}  // namespace outstep::train
