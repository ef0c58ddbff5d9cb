#include "outstep/apps/rank.h"

#include <mutex>
#include <thread>

#include "outstep/apps/failure.h"
#include "outstep/apps/launcher.h"
#include "outstep/apps/places.h"
#include "outstep/base/errors.h"
#include "outstep/base/log.h"
#include "outstep/base/threads.h"
#include "outstep/train/assembly.h"

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

int run_as_children(const train::Recipe& recipe, const RankOptions& options) {
  if (recipe.comm.backend == "mpi") {
    throw ConfigError(
        "comm.backend is \"mpi\", whose ranks only mpirun can start: mpirun -n {} {} …",
        recipe.mesh.size(), program_as_typed());
  }
  LaunchOptions launch_options{.command = {program_path()}, .num_ranks = recipe.mesh.size()};
  launch_options.command.insert(launch_options.command.end(), options.arguments.begin(),
                                options.arguments.end());
  return finish_launch(launch(launch_options));
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
  if (options.local) return run_as_threads(recipe, options, work);
  if (is_alone && recipe.mesh.size() > 1) return run_as_children(recipe, options);
  return run_as_rank(recipe, world, options, work);
}

}  // namespace outstep::apps
