#include "outstep/train/plan.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "outstep/apps/commands.h"
#include "outstep/apps/places.h"
#include "outstep/apps/screen.h"
#include "outstep/apps/table.h"
#include "outstep/base/errors.h"
#include "outstep/base/text.h"

namespace outstep::apps {
namespace {

struct Flags {
  std::string recipe;
  std::string link;
  bool no_measure = false;
  std::vector<std::string> overrides;
};

std::string count_text(double count) {
  return fmt::format("{:.{}f}", count, count == std::floor(count) ? 0 : 1);
}

// The first line of the reason; --json has all of it.
std::string data_text(const train::Plan& plan) {
  if (plan.missing_data.empty()) return "";
  const size_t end = plan.missing_data.find('\n');
  return fmt::format("data not here ({}{}): the model's own examples were used\n",
                     plan.missing_data.substr(0, end), end == std::string::npos ? "" : " …");
}

// Syncs on the same link, and which to take.
std::string comparison_text(const train::Plan& plan) {
  if (plan.comparison.empty()) return "";
  Table table{.header = {"sync", "memory", "sent", "micro-batches", "a step", plan.unit + "/s"},
              .rows = {}};
  for (const train::Forecast& forecast : plan.comparison) {
    table.rows.push_back(
        {forecast.sync + (forecast.is_recipes ? " (this recipe)" : ""),
         human_bytes(forecast.memory_bytes), human_bytes(forecast.bytes_sent_per_step),
         count_text(forecast.micro_batches_per_step()), human_seconds(forecast.step_seconds()),
         with_commas(std::llround(forecast.units_per_second))});
  }
  return fmt::format("\n{}\n{}\n", table.text(), plan.advice);
}

std::string bytes_of(const train::PipelinePlan& plan, bool inputs, bool parameters) {
  return human_bytes(plan.table3_bytes[(inputs ? 0 : 2) + (parameters ? 0 : 1)]);
}

// The schedule, the stages, and the other modes beside it.
std::string pipeline_text(const train::PipelinePlan& plan, int64_t accumulation) {
  const auto time = [&](double seconds) {
    return plan.is_measured ? fmt::format("{:.1f} ms", 1000 * seconds)
                            : fmt::format("{:g} units", seconds);
  };
  Table stages{.header = {"stage", "blocks", "forward", "backward", "delay", "parameters",
                          "gradients", "inputs kept", "copies"},
               .rows = {}};
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const auto& stage = plan.stages[s];
    stages.rows.push_back(
        {fmt::to_string(s), fmt::to_string(stage.num_blocks), time(stage.forward_seconds),
         time(stage.backward_seconds),
         fmt::format("{}{} ticks, {:.2g} updates", plan.is_free ? "at most " : "",
                     stage.delay_ticks,
                     static_cast<double>(stage.delay_ticks) / static_cast<double>(accumulation)),
         human_bytes(stage.bytes.parameters), human_bytes(stage.bytes.gradients),
         human_bytes(stage.bytes.kept), human_bytes(stage.bytes.stashed)});
  }
  Table modes{.header = {"engine", "a micro-batch", "bubble", "÷ one process",
                         "largest stage, graphs left out"},
              .rows = {}};
  for (const auto& mode : plan.modes) {
    modes.rows.push_back(
        {mode.name + (mode.is_recipes ? " (this recipe)" : ""), time(mode.seconds_per_micro_batch),
         fmt::format("{:.0f} %", 100 * mode.bubble_fraction), fmt::format("{:.2f}", mode.speed_up),
         human_bytes(mode.largest_stage_bytes)});
  }
  std::string text = fmt::format("\n{}\n{}\n{}", plan.picture, stages.text(), modes.text());
  if (plan.table3_bytes.empty()) return text;
  text += fmt::format(
      "\nA block a stage, by the formula of the PETRA paper's Table 3 (k = 1): inputs and "
      "parameters "
      "buffered {},\nonly inputs {}, only parameters {}, neither (petra) {}\n",
      bytes_of(plan, true, true), bytes_of(plan, true, false), bytes_of(plan, false, true),
      bytes_of(plan, false, false));
  return text;
}

// What ways of mixing the members send.
std::string mixing_text(const train::Plan& plan) {
  if (plan.mixings.empty()) return "";
  Table table{.header = {"ensemble", "sent by a rank and step"}, .rows = {}};
  for (const auto& mixing : plan.mixings) {
    table.rows.push_back({mixing.name + (mixing.is_recipes ? " (this recipe)" : ""),
                          human_bytes(std::llround(mixing.bytes_per_step))});
    if (!plan.link_bits_per_second) continue;
    table.rows.back().push_back(
        human_seconds(mixing.bytes_per_step * 8 / *plan.link_bits_per_second));
  }
  if (plan.link_bits_per_second) table.header.emplace_back("on the link");
  return "\n" + table.text() +
         "With p at the full learning rate, and the defaults of [ensemble] for the others.\n";
}

std::string plan_text(const train::Recipe& recipe, const train::Plan& plan, bool measured) {
  Table memory{.header = {"memory of a rank", "bytes"}, .rows = {}};
  const auto row = [&](const std::string& what, int64_t bytes) {
    memory.rows.push_back({what, human_bytes(bytes)});
  };
  row("parameters", plan.parameter_bytes);
  row("gradients", plan.gradient_bytes);
  row("optimizer state", plan.optimizer_bytes);
  row("communication buffers", plan.communication_bytes);
  if (measured) row("activations (peak)", plan.activation_bytes);
  row(measured ? "together" : "together, without activations", plan.total_bytes());
  if (plan.pipeline) {
    return fmt::format("{}  {} parameters · {}\n{}\nof stage 0:\n{}{}", plan.model,
                       with_commas(plan.num_parameters), recipe.mesh.describe(), data_text(plan),
                       memory.text(), pipeline_text(*plan.pipeline, recipe.train.accumulation)) +
           mixing_text(plan);
  }

  Table step{.header = {"a step", ""}, .rows = {}};
  step.rows.push_back({"sent by a rank", human_bytes(plan.bytes_sent_per_step)});
  if (measured) {
    if (plan.micro_batches_per_step != static_cast<double>(recipe.train.accumulation)) {
      step.rows.push_back({"micro-batches of a rank", count_text(plan.micro_batches_per_step)});
    }
    step.rows.push_back({"computing", human_seconds(plan.compute_seconds)});
  }
  if (plan.link_bits_per_second) {
    step.rows.push_back({"communication", human_seconds(plan.communication_seconds)});
    if (measured) step.rows.push_back({"together", human_seconds(plan.step_seconds)});
  }
  return fmt::format("{}  {} parameters · {}\n{}\n{}\n{}{}", plan.model,
                     with_commas(plan.num_parameters), recipe.mesh.describe(), data_text(plan),
                     memory.text(), step.text(), comparison_text(plan)) +
         mixing_text(plan);
}

int run(const Flags& flags, const Invocation& invocation) {
  Screen screen({.json = invocation.wants_json()});
  train::PlanOptions options{.link_bits_per_second = std::nullopt, .measure = !flags.no_measure};
  if (!flags.link.empty()) options.link_bits_per_second = parse_bits_per_second(flags.link);
  train::Recipe recipe = train::read_recipe(find_recipe(flags.recipe), flags.overrides);
  const train::Plan plan = train::make_plan(recipe, places_of_machine(), options);
  const bool has_run = options.measure && !plan.pipeline;
  if (!invocation.wants_json()) screen.write(plan_text(recipe, plan, has_run));
  screen.result(plan.to_json());
  return 0;
}

}  // namespace

void add_plan(Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = invocation.add_command(
      {.name = "plan",
       .summary = "What a recipe would need of memory, network and time, without training",
       .examples = "outstep plan recipes/quickstart.toml\n"
                   "outstep plan recipes/quickstart.toml --link 200mbit --mesh.replicas=4"});
  command
      .add_option("recipe", flags->recipe, "A recipe's file, or the name of one that comes along")
      ->required();
  command.add_option(
      "--link", flags->link,
      "Each rank's link, such as 200mbit, 10gbit or 25MB/s: tells the step's time, and which sync "
      "to take");
  command.add_flag(
      "--no-measure", flags->no_measure,
      "Run no step: without activations and times; parameters, gradients and optimizer state are "
      "allocated all the same");
  invocation.takes_json(command);
  invocation.takes_overrides(command, flags->overrides);
  invocation.on_run(command, [flags, &invocation] { return run(*flags, invocation); });
}

}  // namespace outstep::apps
