#include "outstep/apps/commands.h"
#include "outstep/apps/launcher.h"
#include "outstep/apps/master_address.h"
#include "outstep/apps/places.h"
#include "outstep/base/errors.h"

namespace outstep::apps {
namespace {

struct Flags {
  int num_ranks = 1;
  int num_nodes = 1;
  int node_rank = 0;
  std::string master;
  bool all_output = false;
  std::string recipe;
  std::vector<std::string> more;     // for `outstep train RECIPE`
  std::vector<std::string> program;  // behind "--"
};

constexpr int kMaxRanks = 4096;

LaunchOptions options_of(const Flags& flags) {
  LaunchOptions options{.num_ranks = flags.num_ranks,
                        .first_rank = flags.node_rank * flags.num_ranks,
                        .world_size = flags.num_nodes * flags.num_ranks,
                        .shows_all_output = flags.all_output};
  if (!flags.master.empty()) {
    const MasterAddress master = parse_master_address(flags.master);
    options.master_addr = master.host;
    options.master_port = master.port;
  }
  if (flags.num_nodes > 1 && options.master_port == 0) {
    throw ConfigError(
        "several machines need --master HOST:PORT, the same on each; HOST is where "
        "--node-rank is 0, and PORT is free there");
  }
  if (flags.node_rank >= flags.num_nodes) {
    throw ConfigError("--node-rank is {}, but machines are counted from 0 to {}", flags.node_rank,
                      flags.num_nodes - 1);
  }
  return options;
}

int run(const Flags& flags) {
  LaunchOptions options = options_of(flags);
  if (flags.recipe.empty() == flags.program.empty()) {
    throw ConfigError(
        "give a recipe to train, or a program behind \"--\": outstep launch -n 2 "
        "RECIPE, or outstep launch -n 2 -- PROGRAM ARGUMENT…");
  }
  if (!flags.recipe.empty()) {
    options.command = {program_path(), "train", find_recipe(flags.recipe)};
    options.command.insert(options.command.end(), flags.more.begin(), flags.more.end());
  } else {
    if (!flags.more.empty()) {
      throw ConfigError("outstep launch has no flag \"{}\"; see: outstep launch --help",
                        flags.more[0]);
    }
    options.command = flags.program;
    options.starts_outstep = std::filesystem::path(flags.program[0]).filename() == "outstep";
  }
  return finish_launch(launch(options));
}

}  // namespace

void add_launch(Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = invocation.add_command(
      {.name = "launch",
       .summary = "Start ranks of a recipe or of any program, as torchrun does",
       .examples = "outstep launch -n 2 recipes/quickstart.toml --train.steps=50\n"
                   "outstep launch -n 4 -- python train.py --lr 0.1\n"
                   "outstep launch -n 8 --nnodes 2 --node-rank 0 --master 10.0.0.1:29500 RECIPE"});
  command.add_option("recipe", flags->recipe,
                     "A recipe to train; what follows goes to outstep train");
  command.add_option("-n,--ranks", flags->num_ranks, "Ranks on this machine")
      ->required()
      ->check(CLI::Range(1, kMaxRanks));
  command.add_option("--nnodes", flags->num_nodes, "Machines that run this same command")
      ->check(CLI::Range(1, kMaxRanks))
      ->capture_default_str();
  command.add_option("--node-rank", flags->node_rank, "Which of them this is, from 0")
      ->check(CLI::Range(0, kMaxRanks))
      ->capture_default_str();
  command.add_option("--master", flags->master,
                     "HOST:PORT where rank 0 listens (default: here, a free port)");
  command.add_flag("--all-output", flags->all_output,
                   "Show what every rank says, not rank 0 alone, behind its number");
  invocation.passes_on(command, flags->more, flags->program);
  invocation.on_run(command, [flags] { return run(*flags); });
}

}  // namespace outstep::apps
