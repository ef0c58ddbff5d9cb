#include "outstep/apps/rank.h"

#include <fmt/ranges.h>

#include <cstdio>
#include <filesystem>
#include <mutex>
#include <thread>

#include "outstep/apps/failure.h"
#include "outstep/apps/hint.h"
#include "outstep/apps/launcher.h"
#include "outstep/apps/places.h"
#include "outstep/base/errors.h"
#include "outstep/base/log.h"
#include "outstep/base/threads.h"
#include "outstep/train/assembly.h"
#include "outstep/train/checkpoint.h"

namespace outstep::apps {
namespace {

// What went wrong on a rank, told with its number.
FailureError failure_on(int rank) {
  Failure failure = describe_failure(std::current_exception());
  failure.rank = rank;
  return FailureError(std::move(failure));
}

int run_as_rank(const train::Recipe& recipe, const comm::World& world, const RankOptions& options,
                const std::function<int(Rank&)>& work) try {
  train::require_world(recipe.mesh, world);
  log::set_rank(world.rank, world.world_size);
  ScreenOptions screen_options = options.screen;
  screen_options.silent = world.rank != 0;
  Screen screen(screen_options);
  const auto fabric = comm::connect(world, recipe.comm);
  Rank rank{.world = world, .fabric = *fabric, .screen = screen};
  return work(rank);
} catch (...) {
  throw failure_on(world.rank);
}

// A rank that fails gives up its groups, which ends the others' waits; the first error is the one
// to show.
int run_as_threads(const train::Recipe& recipe, const RankOptions& options,
                   const std::function<int(Rank&)>& work) {
  const int num_ranks = recipe.mesh.size();
  auto fabrics = comm::local_fabrics(num_ranks, recipe.comm);
  Screen screen(options.screen);
  Screen silent({.silent = true});
  std::mutex mutex;
  std::vector<Failure> failures;  // guarded by mutex
  int exit_code = 0;              // written by rank 0 alone
  {
    std::vector<std::jthread> ranks;
    for (int r = 0; r < num_ranks; ++r) {
      ranks.emplace_back([&, r] {
        name_this_thread(fmt::format("rank {}", r));
        try {
          Rank rank{.world = fabrics[static_cast<size_t>(r)]->world(),
                    .fabric = *fabrics[static_cast<size_t>(r)],
                    .screen = r == 0 ? screen : silent};
          const int code = work(rank);
          if (r == 0) exit_code = code;
        } catch (...) {
          const std::lock_guard lock(mutex);
          failures.push_back(failure_on(r).failure());
        }
      });
    }
  }
  if (const Failure* first = first_failure(failures)) throw FailureError(*first);
  return exit_code;
}

LaunchOptions launch_of(const train::Recipe& recipe, const RankOptions& options) {
  if (recipe.comm.backend == "mpi") {
    throw ConfigError(
        "comm.backend is \"mpi\", whose ranks only mpirun can start: mpirun -n {} {} …",
        recipe.mesh.size(), program_as_typed());
  }
  LaunchOptions launch{.command = {program_path()}, .num_ranks = recipe.mesh.size()};
  launch.command.insert(launch.command.end(), options.arguments.begin(), options.arguments.end());
  return launch;
}

// Tells who was lost and how, and who goes on from where.
void tell_loss(const std::vector<LostRank>& ranks, const std::vector<int>& lost,
               const std::vector<int>& left, const std::filesystem::path& run_folder) {
  std::vector<std::string> how;
  for (const LostRank& rank : ranks) how.push_back(rank.how);
  const auto checkpoints = train::list_checkpoints(run_folder);
  const std::string from = checkpoints.empty()
                               ? "from the beginning: there is no checkpoint yet"
                               : fmt::format("from step {}, {}", checkpoints.back().step,
                                             checkpoints.back().folder.string());
  std::fputs(fmt::format("outstep: lost {}: {}; the run goes on with {} {}\n",
                         train::describe_members(lost), fmt::join(how, "; "),
                         train::describe_members(left), from)
                 .c_str(),
             stderr);
}

// Members may be lost one after another; those that are left take up the run each time.
int run_as_children(const train::Recipe& recipe, const RankOptions& options) {
  LaunchOptions launch_options = launch_of(recipe, options);
  comm::Mesh mesh = recipe.mesh;
  train::Members members = recipe.members;
  std::string run_folder;
  // Whoever waits for a lost rank itself may take its own deadline to end.
  if (members.continues_on_loss) launch_options.grace += recipe.comm.deadline;
  for (;;) {
    const LaunchOutcome outcome = launch(launch_options);
    if (!outcome.run_folder.empty()) run_folder = outcome.run_folder;
    std::vector<int> ranks;
    for (const LostRank& rank : outcome.lost) ranks.push_back(rank.rank);
    const std::vector<int> lost = members.of_ranks(mesh, ranks);
    const train::Members left = members.without(lost);
    const bool can_go_on = !lost.empty() && !left.ids.empty() && has_begun(run_folder);
    if (!members.continues_on_loss || !can_go_on) return finish_launch(outcome);
    tell_loss(outcome.lost, lost, left.ids, run_folder);
    members = left;
    mesh.members = static_cast<int>(left.ids.size());
    launch_options.num_ranks = mesh.size();
    // The program as it was found at first: its file may have been replaced since.
    launch_options.command = {launch_options.command.front(), "resume", run_folder,
                              fmt::format("--ensemble.lost=[{}]", fmt::join(left.lost, ","))};
    launch_options.command.insert(launch_options.command.end(), options.resume_flags.begin(),
                                  options.resume_flags.end());
  }
}

// This process is one of a world that has fewer of them than the population has ranks.
int run_as_host(const train::Recipe& recipe, const comm::World& process,
                const RankOptions& options) {
  const int world_size = recipe.mesh.size();
  const comm::HostedRanks hosted = comm::hosted_ranks(process, world_size);
  LaunchOptions launch_options = launch_of(recipe, options);
  launch_options.num_ranks = hosted.num_ranks;
  launch_options.first_rank = hosted.first_rank;
  launch_options.world_size = world_size;
  launch_options.first_local_rank = hosted.first_local_rank;
  launch_options.local_size = hosted.local_size;
  launch_options.master_addr = process.master_addr;
  launch_options.master_port = process.master_port;
  launch_options.hosts = true;
  return finish_launch(launch(launch_options));
}

// on_loss is for whoever starts the ranks, and here that is somebody else.
void warn_of_other_starter(const train::Recipe& recipe, const std::string& starter) {
  if (!recipe.members.continues_on_loss || recipe.mesh.members == 1) return;
  log::warn(
      "ensemble.on_loss = \"continue\" has no effect with {}: only an {} train that starts its "
      "processes itself goes on by itself when a member is lost; resume by hand then",
      starter, program_as_typed());
}

}  // namespace

int run_on_ranks(const train::Recipe& recipe, const RankOptions& options,
                 const std::function<int(Rank&)>& work) {
  const comm::World world = comm::world_from_environment();
  const bool is_alone = world.source == "alone";
  if (options.local && !is_alone) {
    throw ConfigError("--local makes all ranks threads of one process, but {} started {} of them",
                      world.source, world.world_size);
  }
  if (options.local) {
    warn_of_other_starter(recipe, "--local");
    return run_as_threads(recipe, options, work);
  }
  if (!is_alone && world.source != "outstep" && world.rank == 0) {
    warn_of_other_starter(recipe, world.source);
  }
  if (is_alone && recipe.mesh.size() > 1) return run_as_children(recipe, options);
  const bool is_too_small = world.world_size < recipe.mesh.size();
  if (recipe.mesh.members > 1 && is_too_small) return run_as_host(recipe, world, options);
  return run_as_rank(recipe, world, options, work);
}

}  // namespace outstep::apps
