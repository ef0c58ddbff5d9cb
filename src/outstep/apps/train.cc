#include "outstep/apps/commands.h"
#include "outstep/apps/places.h"
#include "outstep/apps/training.h"

namespace outstep::apps {
namespace {

struct Flags {
  std::string recipe;
  std::string run_folder;
  std::vector<std::string> overrides;
  bool trace = false;
  bool quiet = false;
  bool dry_run = false;
  bool local = false;
};

int run(const Flags& flags, const Invocation& invocation) {
  const auto path = find_recipe(flags.recipe);
  const TrainingJob job{
      .read_recipe = [&] { return train::read_recipe(path, flags.overrides); },
      .run_folder = flags.run_folder,
      .trace = flags.trace,
      .dry_run = flags.dry_run,
  };
  const train::Recipe recipe = job.read_recipe();
  const ScreenOptions screen{.json = invocation.wants_json(), .quiet = flags.quiet};
  return run_on_ranks(recipe,
                      {.arguments = invocation.arguments(),
                       .resume_flags = resume_flags(screen, flags.trace),
                       .local = flags.local,
                       .screen = screen},
                      [&](Rank& rank) { return train_on_rank(job, rank); });
}

}  // namespace

void add_train(Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = invocation.add_command(
      {.name = "train",
       .summary = "Train as a recipe says, on as many ranks as its mesh wants",
       .examples = "outstep train recipes/quickstart.toml\n"
                   "outstep train quickstart --sync.name=ddp --train.steps=100\n"
                   "torchrun --no-python --nproc-per-node 2 outstep train recipes/quickstart.toml\n"
                   "mpirun -n 2 outstep train recipes/quickstart.toml"});
  command
      .add_option("recipe", flags->recipe, "A recipe's file, or the name of one that comes along")
      ->required();
  command.add_option("--run-dir", flags->run_folder, "The run's folder (default runs/NAME-TIME)");
  command.add_flag("--trace", flags->trace,
                   "Write trace-RANK.json into the run's folder (open in ui.perfetto.dev)");
  command.add_flag("--quiet", flags->quiet, "Show warnings and errors only");
  command.add_flag("--dry-run", flags->dry_run,
                   "Build everything, show what would be trained, and leave");
  command.add_flag("--local", flags->local, "Make the ranks threads of this process");
  invocation.takes_json(command);
  invocation.takes_overrides(command, flags->overrides);
  invocation.on_run(command, [flags, &invocation] { return run(*flags, invocation); });
}

}  // namespace outstep::apps
