#include "outstep/apps/training.h"

#include <csignal>
#include <nlohmann/json.hpp>
#include <optional>

#include "outstep/apps/failure.h"
#include "outstep/apps/generate.h"
#include "outstep/apps/hint.h"
#include "outstep/apps/places.h"
#include "outstep/apps/printable.h"
#include "outstep/apps/report.h"
#include "outstep/apps/run_text.h"
#include "outstep/apps/stop_signals.h"
#include "outstep/base/errors.h"
#include "outstep/base/log.h"
#include "outstep/io/chrome_trace.h"
#include "outstep/train/run_folder.h"

namespace outstep::apps {
namespace {

constexpr int64_t kSampleTokens = 240;
constexpr double kSampleSeconds = 3;

// A taste of what a language model has learned; bounded, because it is only a taste.
void show_sample(const train::Assembly& assembly, Screen& screen) {
  const auto& data = assembly.data;
  if (!data.tokenizer || assembly.mesh.stages > 1) return;  // no rank holds all of the model then
  const std::string text = generate(
      *assembly.model, *data.tokenizer,
      {.prompt = "\n", .sample = {.max_tokens = kSampleTokens}, .max_seconds = kSampleSeconds});
  screen.line("── a sample ──\n" + printable(text) + "\n──────────────");
}

void write_trace(const std::optional<trace::Tracer>& tracer, const std::filesystem::path& folder,
                 int rank) {
  if (!tracer || folder.empty()) return;
  io::write_chrome_trace(folder / fmt::format("trace-{}.json", rank), *tracer, rank);
}

std::filesystem::path flight_path(const std::filesystem::path& folder, int rank) {
  return folder / fmt::format("flight-{}.json", rank);
}

// From here on an error of communication leaves a flight record; those of earlier attempts go, also
// of members that were lost since.
void record_flights(Rank& rank, const train::Recipe& recipe, const std::filesystem::path& folder) {
  const auto path = flight_path(folder, rank.world.rank);
  const int num_members = recipe.mesh.members + static_cast<int>(recipe.members.lost.size());
  const int num_ranks = num_members * recipe.mesh.replicas * recipe.mesh.stages;
  std::error_code error;
  for (int r = rank.world.rank; r < num_ranks; r += rank.world.world_size) {
    std::filesystem::remove(flight_path(folder, r), error);
  }
  if (comm::FlightRecorder* flights = rank.fabric.flights()) flights->dump_on_error(path);
}

// What is known about a run that a peer's loss has ended: how to go on, and where its flight record
// lies.
Failure with_hint(Failure failure, const std::filesystem::path& folder, const comm::World& world) {
  if (failure.kind != "communication error") return failure;
  failure.hint = resume_hint(folder);
  // Our launcher knows who was lost, and says so itself.
  if (world.source != "outstep") failure.hint += without_lost_hint(folder);
  const auto path = flight_path(folder, world.rank);
  if (std::filesystem::exists(path)) {
    failure.hint += fmt::format("\n  What the ranks did last: {} inspect {}", program_as_typed(),
                                folder.string());
  }
  return failure;
}

int exit_code_of(const train::Summary& summary, const StopSignals& signals) {
  if (summary.finished) return 0;
  return 128 + (signals.signal() != 0 ? signals.signal() : SIGTERM);  // else a peer was asked
}

}  // namespace

std::vector<std::string> resume_flags(const ScreenOptions& screen, bool trace) {
  std::vector<std::string> flags;
  if (trace) flags.emplace_back("--trace");
  if (screen.quiet) flags.emplace_back("--quiet");
  if (screen.json) flags.emplace_back("--json");
  return flags;
}

int train_on_rank(const TrainingJob& job, Rank& rank) {
  train::Recipe recipe = job.read_recipe();
  std::optional<trace::Tracer> tracer;
  if (job.trace) tracer.emplace();
  const auto assembly =
      train::assemble(recipe, places_of_machine(), rank.fabric, tracer ? &*tracer : nullptr);
  rank.screen.line(start_text(recipe, *assembly));
  if (job.dry_run) {
    rank.screen.result({{"dry_run", true},
                        {"model", assembly->model->family()},
                        {"parameters", assembly->params->num_parameters()},
                        {"ranks", rank.world.world_size}});
    return 0;
  }

  const std::filesystem::path folder =
      job.resume ? job.run_folder
                 : train::make_run_folder(job.run_folder, recipe.name, *assembly->world_group);
  report_run_folder(folder);
  record_flights(rank, recipe, folder);
  const StopSignals signals;
  train::Summary summary;
  try {
    summary = train::run_training(
        recipe, *assembly,
        {.run_folder = folder,
         .resume = job.resume,
         .stop = &signals.stop(),
         .on_progress = [&](const train::Progress& p) { rank.screen.progress(p); },
         .tracer = tracer ? &*tracer : nullptr});
  } catch (...) {
    const Failure failure = describe_failure(std::current_exception());
    rank.screen.end_progress();
    try {
      write_trace(tracer, folder, rank.world.rank);
    } catch (const std::exception& error) {  // says less than what ended the run
      log::warn("no trace is left: {}", error.what());
    }
    throw FailureError(with_hint(failure, folder, rank.world));
  }
  rank.screen.end_progress();
  write_trace(tracer, folder, rank.world.rank);
  if (rank.world.rank == 0) {
    if (summary.finished) show_sample(*assembly, rank.screen);
    rank.screen.line(end_text(*assembly, summary));
    rank.screen.result(summary.to_json());
  }
  return exit_code_of(summary, signals);
}

}  // namespace outstep::apps
