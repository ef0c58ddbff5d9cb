#include "outstep/train/plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

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
  return fmt::format("\n{}{}\n{}\n", table.text(),
                     plan.mixings.empty() ? "" : "without what members send each other\n",
                     plan.advice);
}

std::string bytes_of(const train::PipelinePlan& plan, bool inputs, bool parameters) {
  return human_bytes(plan.table3_bytes[(inputs ? 0 : 2) + (parameters ? 0 : 1)]);
}

// Of a pass or a message.
std::string pass_text(double seconds) {
  return seconds < 10 ? fmt::format("{:.1f} ms", 1000 * seconds) : human_seconds(seconds);
}

std::string time_text(const train::PipelinePlan& plan, double seconds) {
  if (plan.is_measured) return pass_text(seconds);
  return fmt::format("{:g} {}", seconds, seconds == 1 ? "unit" : "units");
}

std::string staleness_text(const train::PipelinePlan& plan, int64_t ticks, double updates) {
  if (ticks == 0) return "0";
  return fmt::format("{}{} {}, {:.2g} {}", plan.is_free ? "at most " : "", ticks,
                     ticks == 1 ? "tick" : "ticks", updates, updates == 1 ? "update" : "updates");
}

// "13.9 + 9.1 MB", as far as that can be taken in.
std::string bytes_by_stage(const std::vector<int64_t>& stages) {
  constexpr size_t kMostStages = 4;
  if (stages.size() > kMostStages) {
    return fmt::format("{} the largest, {} together", human_bytes(std::ranges::max(stages)),
                       human_bytes(std::accumulate(stages.begin(), stages.end(), int64_t{0})));
  }
  std::string text, unit;
  for (size_t s = stages.size(); s-- > 0;) {
    std::string bytes = human_bytes(stages[s]);
    const size_t blank = bytes.find(' ');
    const std::string its_unit = bytes.substr(blank);
    if (its_unit == unit) bytes.resize(blank);
    unit = its_unit;
    text = text.empty() ? bytes : bytes + " + " + text;
  }
  return text;
}

// "4 + 4", or how many it comes to.
std::string graphs_by_stage(const std::vector<int64_t>& stages) {
  constexpr size_t kMostStages = 8;
  if (stages.size() <= kMostStages) return fmt::format("{}", fmt::join(stages, " + "));
  return fmt::format("{} together", std::accumulate(stages.begin(), stages.end(), int64_t{0}));
}

// How long they take, and what they send each other.
std::string stages_text(const train::PipelinePlan& plan) {
  Table table{.header = {"stage", "blocks", "forward", "backward", "delay",
                         "to next, a micro-batch", "to previous"},
              .rows = {}};
  const auto sent_text = [&](int64_t bytes) {
    if (bytes == 0) return std::string("-");
    if (!plan.link_bits_per_second) return human_bytes(bytes);
    return fmt::format("{}, {}", human_bytes(bytes), pass_text(plan.link_seconds(bytes)));
  };
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const auto& stage = plan.stages[s];
    table.rows.push_back({fmt::to_string(s), fmt::to_string(stage.num_blocks),
                          time_text(plan, stage.forward_seconds),
                          time_text(plan, stage.backward_seconds),
                          staleness_text(plan, stage.delay_ticks, stage.staleness),
                          sent_text(stage.sent.to_next), sent_text(stage.sent.to_previous)});
  }
  return table.text();
}

std::string stage_memory_text(const train::PipelinePlan& plan) {
  Table table{.header = {"stage", "parameters", "gradients", "inputs kept", "copies"}, .rows = {}};
  if (plan.is_measured) table.header.emplace_back("graphs, at most");
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const auto& stage = plan.stages[s];
    table.rows.push_back({fmt::to_string(s), human_bytes(stage.bytes.parameters),
                          human_bytes(stage.bytes.gradients), human_bytes(stage.bytes.kept),
                          human_bytes(stage.bytes.stashed)});
    if (plan.is_measured) table.rows.back().push_back(human_bytes(stage.graph_bytes));
  }
  return table.text();
}

// All modes side by side.
std::string modes_text(const train::PipelinePlan& plan) {
  Table table{.header = {"engine", "a micro-batch", "bubble", "÷ one process", "delay of stage 0",
                         "memory by stage"},
              .rows = {}};
  if (!plan.is_measured) table.header.emplace_back("and graphs of micro-batches");
  for (const auto& mode : plan.modes) {
    table.rows.push_back(
        {mode.name + (mode.is_recipes ? " (this recipe)" : ""),
         time_text(plan, mode.seconds_per_micro_batch),
         fmt::format("{:.0f} %", 100 * mode.bubble_fraction), fmt::format("{:.2f}", mode.speed_up),
         staleness_text(plan, mode.delay_ticks, mode.staleness), bytes_by_stage(mode.stage_bytes)});
    if (!plan.is_measured) table.rows.back().push_back(graphs_by_stage(mode.num_graphs));
  }
  return table.text() +
         (plan.is_measured
              ? "Memory: parameters, gradients, kept inputs, copies, and graphs as measured.\n"
              : "Memory: parameters, gradients, kept inputs and copies. Graphs kept come on top, "
                "of "
                "so many micro-batches:\nwithout --no-measure they are measured and counted.\n");
}

// What the picture leaves out.
std::string picture_notes(const train::PipelinePlan& plan) {
  std::string notes;
  if (plan.picture_from_seconds > 0) {
    notes += fmt::format("from {} on, when the first stage goes back for the first time\n",
                         time_text(plan, plan.picture_from_seconds));
  }
  if (plan.is_free) {
    notes += "as in ticks: when free stages make their passes depends on the clock\n";
  }
  if (plan.link_bits_per_second && !plan.is_measured) {
    notes += "without the link: how long a unit takes is not measured\n";
  }
  return notes;
}

// The schedule, the stages, and the other modes beside it.
std::string pipeline_text(const train::PipelinePlan& plan) {
  std::string text = fmt::format("\n{}{}\n{}\n{}\n{}", plan.picture, picture_notes(plan),
                                 stages_text(plan), stage_memory_text(plan), modes_text(plan));
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
         "With p at the full learning rate. wash and wash_opt as the recipe has the one of them, "
         "the others by the defaults of [ensemble].\n";
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
    Table sent{.header = {"a step", ""}, .rows = {{"sent", human_bytes(plan.bytes_sent_per_step)}}};
    if (plan.link_bits_per_second) {
      sent.rows.push_back({"communication", human_seconds(plan.communication_seconds)});
    }
    return fmt::format("{}  {} parameters · {}\n{}\nof stage 0:\n{}\n{}{}", plan.model,
                       with_commas(plan.num_parameters), recipe.mesh.describe(), data_text(plan),
                       memory.text(), sent.text(), pipeline_text(*plan.pipeline)) +
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
