
#include "outstep/apps/commands.h"
#include "outstep/apps/places.h"
#include "outstep/apps/resume_rules.h"
#include "outstep/apps/training.h"
#include "outstep/base/errors.h"
#include "outstep/train/run_folder.h"

namespace outstep::apps {
namespace {

struct Flags {
  std::string run;
  std::vector<std::string> overrides;
  bool trace = false;
  bool quiet = false;
  bool local = false;
};

std::filesystem::path require_resumable(const std::filesystem::path& run) {
  if (train::folder_kind(run) != train::FolderKind::run) {
    throw DataError("{} is not a run's folder; resume takes the folder that holds checkpoints/",
                    run.string());
  }
  if (!std::filesystem::is_regular_file(run / "recipe.toml")) {
    throw DataError("{} has no recipe.toml: it never began; start again with: {} train RECIPE",
                    run.string(), program_as_typed());
  }
  return run;
}

int run(const Flags& flags, const Invocation& invocation) {
  const auto folder = require_resumable(flags.run);
  const auto notes = check_resume_overrides(flags.overrides);
  const TrainingJob job{
      .read_recipe = [&] { return train::read_recipe(folder / "recipe.toml", flags.overrides); },
      .run_folder = folder,
      .resume = true,
      .trace = flags.trace,
  };
  const train::Recipe recipe = job.read_recipe();
  const ScreenOptions screen{.json = invocation.wants_json(), .quiet = flags.quiet};
  auto kept_flags = resume_flags(screen, flags.trace);
  for (const std::string& override : flags.overrides) {
    if (!override.starts_with("ensemble.lost=")) kept_flags.push_back("--" + override);
  }
  return run_on_ranks(recipe,
                      {.arguments = invocation.arguments(),
                       .resume_flags = kept_flags,
                       .local = flags.local,
                       .screen = screen},
                      [&](Rank& rank) {
                        for (const std::string& note : notes) rank.screen.line(note);
                        return train_on_rank(job, rank);
                      });
}

}  // namespace

void add_resume(Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = invocation.add_command(
      {.name = "resume",
       .summary = "Go on with a run from its newest checkpoint, as if it had not stopped",
       .examples = "outstep resume runs/quickstart-20261122-101500\n"
                   "outstep resume runs/quickstart-20261122-101500 --train.steps=1200\n"
                   "outstep resume runs/quickstart-20261122-101500 --mesh.replicas=1"});
  command.add_option("run", flags->run, "A run's folder")->required();
  command.add_flag("--trace", flags->trace, "Write trace-RANK.json into the run's folder");
  command.add_flag("--quiet", flags->quiet, "Show warnings and errors only");
  command.add_flag("--local", flags->local, "Make the ranks threads of this process");
  invocation.takes_json(command);
  invocation.takes_overrides(command, flags->overrides);
  invocation.on_run(command, [flags, &invocation] { return run(*flags, invocation); });
}

}  // namespace outstep::apps
