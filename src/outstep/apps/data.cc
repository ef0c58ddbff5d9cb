#include "outstep/apps/commands.h"
#include "outstep/apps/failure.h"
#include "outstep/apps/places.h"
#include "outstep/apps/progress_line.h"
#include "outstep/apps/screen.h"
#include "outstep/apps/stop_signals.h"
#include "outstep/apps/table.h"
#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/data/catalogue.h"
#include "outstep/data/fetch.h"
#include "outstep/data/places.h"

#include <nlohmann/json.hpp>

namespace outstep::apps {
namespace {

namespace fs = std::filesystem;

struct Flags {
  std::string name;
  std::string from;
  std::string to;
};

std::string where_it_is(const data::CatalogueEntry& entry) {
  const data::Places places = places_of_machine();
  if (data::holds_data(places.data_root / entry.folder)) {
    return "in " + places.data_root.string();
  }
  if (data::holds_data(places.shipped / entry.folder)) return "shipped";
  return entry.has_address() ? "to be fetched" : "with --from only";
}

int list(const Invocation& invocation) {
  Screen screen({.json = invocation.wants_json()});
  Table table{.header = {"name", "size", "here", "what"}, .rows = {}};
  nlohmann::ordered_json sets = nlohmann::ordered_json::array();
  for (const data::CatalogueEntry& entry : data::catalogue()) {
    table.rows.push_back(
        {entry.name, human_bytes(entry.download_bytes()), where_it_is(entry), entry.what});
    sets.push_back({{"name", entry.name},
                    {"bytes", entry.download_bytes()},
                    {"here", where_it_is(entry)},
                    {"what", entry.what},
                    {"licence", entry.licence},
                    {"source", entry.source}});
  }
  if (!invocation.wants_json()) screen.write(table.text());
  screen.result({{"sets", sets}});
  return 0;
}

// One line for each file, redrawn while it grows on a terminal.
void show(Screen& screen, const data::FetchProgress& progress, std::string& last_file) {
  if (progress.file != last_file) screen.line("  " + progress.file);
  last_file = progress.file;
  screen.status(fmt::format("  {} of {}", human_bytes(progress.done_bytes),
                            human_bytes(progress.total_bytes)));
}

int get(const Flags& flags, const Invocation& invocation) {
  Screen screen({.json = invocation.wants_json()});
  const data::CatalogueEntry& entry = data::find_in_catalogue(flags.name);
  screen.line(
      fmt::format("{}\n  source   {}\n  licence  {}", entry.what, entry.source, entry.licence));
  const StopSignals signals;
  std::string last_file;
  data::FetchReport report;
  try {
    report = data::fetch(
        entry, {.data_root = flags.to.empty() ? places_of_machine().data_root : fs::path(flags.to),
                .from = flags.from,
                .on_progress = [&](const data::FetchProgress& p) { show(screen, p, last_file); },
                .stop = &signals.stop()});
  } catch (const DataError& error) {
    if (signals.signal() == 0) throw;
    throw FailureError(
        {.kind = "stopped", .exit_code = 128 + signals.signal(), .message = error.what()});
  }
  screen.end_progress();
  screen.line(fmt::format("{} files fetched, {} were there, in {}", report.fetched.size(),
                          report.already_there.size(), report.folder.string()));
  if (!report.missing.empty()) {
    screen.line(fmt::format("not in {}: {}", flags.from, join(report.missing, ", ")));
  }
  screen.result({{"folder", report.folder.string()},
                 {"fetched", report.fetched},
                 {"already_there", report.already_there},
                 {"missing", report.missing}});
  return 0;
}

}  // namespace

void add_data(Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command =
      invocation.add_command({.name = "data",
                              .summary = "List public data sets, or bring one to this machine",
                              .examples = "outstep data list\n"
                                          "outstep data get cifar10\n"
                                          "outstep data get cifar10 --from /mnt/sets --to ~/data"});
  CLI::App& list_command = invocation.add_command(
      {.name = "list", .summary = "The sets there are", .examples = "outstep data list"}, &command);
  CLI::App& get_command = invocation.add_command(
      {.name = "get",
       .summary = "Bring a set, checked by its hashes; goes on where it was interrupted",
       .examples = "outstep data get cifar10\noutstep data get cifar10 --from /mnt/sets"},
      &command);
  get_command.add_option("name", flags->name, "As outstep data list tells")->required();
  get_command.add_option("--from", flags->from,
                         "Copy from a folder that has the set, in place of downloading");
  get_command.add_option("--to", flags->to,
                         "Where the set's folder is made (default: OUTSTEP_DATA, else data/)");
  for (CLI::App* app : {&list_command, &get_command}) invocation.takes_json(*app);
  invocation.on_run(list_command, [&invocation] { return list(invocation); });
  invocation.on_run(get_command, [flags, &invocation] { return get(*flags, invocation); });
}

}  // namespace outstep::apps
