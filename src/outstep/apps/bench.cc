#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "outstep/apps/bench_parts.h"
#include "outstep/apps/commands.h"
#include "outstep/apps/places.h"
#include "outstep/apps/progress_line.h"
#include "outstep/apps/rank.h"
#include "outstep/apps/run_text.h"
#include "outstep/apps/table.h"
#include "outstep/base/version.h"

namespace outstep::apps {
namespace {

struct Flags {
  std::string recipe;
  int repetitions = 10;
  bool local = false;
  std::vector<std::string> overrides;
};

std::string milliseconds(double seconds) { return fmt::format("{:.3g} ms", 1e3 * seconds); }

std::string rate(const Timing& timing) {
  if (timing.work <= 0) return "";
  const double rate = timing.work / timing.median();
  if (timing.work_unit == "bytes") return fmt::format("{:.2f} GB/s", rate / 1e9);
  if (timing.work_unit == "parameters") return fmt::format("{:.2f} ns each", 1e9 / rate);
  return compact_number(rate) + " " + rate_unit(timing.work_unit);
}

void show(const std::vector<Timing>& timings, Screen& screen) {
  Table table{.header = {"part", "median", "least", "most", "rate", "note"}, .rows = {}};
  nlohmann::ordered_json parts = nlohmann::ordered_json::array();
  for (const Timing& timing : timings) {
    table.rows.push_back({timing.part, milliseconds(timing.median()), milliseconds(timing.least()),
                          milliseconds(timing.most()), rate(timing), timing.note});
    parts.push_back({{"part", timing.part},
                     {"median_seconds", timing.median()},
                     {"least_seconds", timing.least()},
                     {"most_seconds", timing.most()},
                     {"repetitions", timing.seconds.size()},
                     {"work", timing.work},
                     {"work_unit", timing.work_unit}});
  }
  if (!screen.is_json()) screen.write("\n" + table.text());
  screen.result({{"parts", parts},
                 {"outstep", build_info().version},
                 {"commit", build_info().commit},
                 {"torch", build_info().torch_version}});
}

int run(const Flags& flags, const Invocation& invocation) {
  const auto path = find_recipe(flags.recipe);
  const auto read = [&] { return train::read_recipe(path, flags.overrides); };
  return run_on_ranks(read(),
                      {.arguments = invocation.arguments(),
                       .local = flags.local,
                       .screen = {.json = invocation.wants_json()}},
                      [&](Rank& rank) {
                        train::Recipe recipe = read();
                        const auto assembly =
                            train::assemble(recipe, places_of_machine(), rank.fabric, nullptr);
                        rank.screen.line(start_text(recipe, *assembly));
                        show(time_parts(recipe, *assembly, flags.repetitions), rank.screen);
                        return 0;
                      });
}

}  // namespace

void add_bench(Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = invocation.add_command(
      {.name = "bench",
       .summary = "Time the parts of a recipe's training step on this machine",
       .examples =
           "outstep bench recipes/quickstart.toml\n"
           "outstep bench quickstart --repetitions 30 --train.threads=2 --mesh.replicas=1"});
  command
      .add_option("recipe", flags->recipe, "A recipe's file, or the name of one that comes along")
      ->required();
  command.add_option("--repetitions", flags->repetitions, "Of each part, after a warm-up")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  command.add_flag("--local", flags->local, "Make the ranks threads of this process");
  invocation.takes_json(command);
  invocation.takes_overrides(command, flags->overrides);
  invocation.on_run(command, [flags, &invocation] { return run(*flags, invocation); });
}

}  // namespace outstep::apps
