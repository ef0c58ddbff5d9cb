#include "outstep/train/plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "outstep/base/clock.h"
#include "outstep/base/memory.h"
#include "outstep/train/phantom.h"

namespace outstep::train {
namespace {

constexpr double kLongSeconds = 10;  // a step that takes longer is not repeated for a better timing

// Two where there are two: a step of several rounds needs one for each.
int64_t timed_micro_batches(const Recipe& recipe) {
  return std::min<int64_t>(recipe.train.accumulation, 2);
}

// What things take on this machine.
struct Timing {
  double step_seconds = 0;         // a step, without waiting for a link
  int64_t num_micro_batches = 1;   // in it
  double micro_batch_seconds = 0;  // forward and backward alone
  double ready_seconds = 0;        // from the first final gradient to the end of backward
};

void time_step(Assembly& assembly, const Recipe& recipe, Timing& timing) {
  const auto begin = Clock::now();
  const auto report =
      assembly.sync->step(*assembly.engine, {.step = 0,
                                             .lr = assembly.schedule.at(0),
                                             .accumulation = timed_micro_batches(recipe),
                                             .clip_norm = recipe.train.clip_norm,
                                             .tracer = nullptr});
  timing.step_seconds = seconds_since(begin);
  timing.num_micro_batches = report.local.micro_batches;
}

void time_micro_batch(Assembly& assembly, Timing& timing) {
  std::optional<Clock::time_point> first_ready;
  assembly.engine->on_range_ready([&](int64_t, int64_t) {
    if (!first_ready) first_ready = Clock::now();
  });
  const auto begin = Clock::now();
  assembly.engine->accumulate();
  const auto end = Clock::now();
  assembly.engine->on_range_ready(nullptr);
  timing.micro_batch_seconds = seconds_between(begin, end);
  if (first_ready) timing.ready_seconds = seconds_between(*first_ready, end);
}

// The first step also makes what kernels make once; the second is an ordinary one.
Timing measure(Assembly& assembly, const Recipe& recipe) {
  Timing timing;
  time_step(assembly, recipe, timing);
  if (timing.step_seconds < kLongSeconds) time_step(assembly, recipe, timing);
  time_micro_batch(assembly, timing);
  if (assembly.data.validation) {
    const int64_t wanted = recipe.evaluation.batch;
    const int64_t size = wanted > 0 ? wanted : assembly.stream->options().micro_batch;
    assembly.engine->evaluate(data::Sweep(assembly.data.validation, size).batch(0));
  }
  return timing;
}

// What cannot overlap comes on top; what can is hidden as far as there is computing left to hide
// it.
double exposed_seconds(const Plan& plan, double bits_per_second, double computing_seconds) {
  const auto seconds = [&](int64_t bytes) {
    return static_cast<double>(bytes) * 8 / bits_per_second;
  };
  const double hidden = std::min(seconds(plan.overlapped_bytes), computing_seconds);
  return seconds(plan.bytes_sent_per_step) - hidden;
}

void count(Plan& plan, const Assembly& assembly) {
  plan.model = assembly.model->family();
  plan.num_parameters = assembly.params->num_parameters();
  plan.parameter_bytes = static_cast<int64_t>(assembly.params->values().nbytes());
  plan.gradient_bytes = static_cast<int64_t>(assembly.params->gradients().nbytes());
  plan.optimizer_bytes = assembly.sync->optimizer_bytes();
  plan.communication_bytes = assembly.sync->communication_bytes();
  const method::Traffic traffic = assembly.sync->planned_traffic();
  plan.bytes_sent_per_step = traffic.bytes_sent;
  plan.overlapped_bytes = traffic.overlapped_bytes;
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
  plan.missing_data = build(recipe, places, *assembly, nullptr, MissingData::stand_in);
  count(plan, *assembly);
  Timing timing;
  if (options.measure) {
    timing = measure(*assembly, recipe);
    plan.activation_bytes = memory::peak_bytes() - bytes_before - plan.total_bytes();
    // Dynamic counts may make a step of more micro-batches than the recipe's.
    const int64_t num_further =
        std::max<int64_t>(recipe.train.accumulation - timing.num_micro_batches, 0);
    plan.compute_seconds =
        timing.step_seconds + static_cast<double>(num_further) * timing.micro_batch_seconds;
    plan.step_seconds = plan.compute_seconds;
  }
  if (options.link_bits_per_second) {
    const double rate = *options.link_bits_per_second;
    plan.link_bits_per_second = rate;
    plan.communication_seconds = static_cast<double>(plan.bytes_sent_per_step) * 8 / rate;
    const bool hides_behind_all = assembly->sync->planned_traffic().hides_behind_all_computing;
    plan.step_seconds +=
        exposed_seconds(plan, rate, hides_behind_all ? plan.compute_seconds : timing.ready_seconds);
  }
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
  json["compute_seconds"] = compute_seconds;
  if (link_bits_per_second) {
    json["link_bits_per_second"] = *link_bits_per_second;
    json["communication_seconds"] = communication_seconds;
  }
  json["step_seconds"] = step_seconds;
  json["is_data_here"] = missing_data.empty();
  if (!missing_data.empty()) json["missing_data"] = missing_data;
  return json;
}

}  // namespace outstep::train
