#pragma once

#include <functional>
#include <string>
#include <vector>

#include "outstep/apps/screen.h"
#include "outstep/comm/fabric.h"
#include "outstep/train/recipe.h"

// Brings up the ranks that a recipe's mesh wants and runs the same work on each.
//
//   return run_on_ranks(recipe, {.arguments = invocation.arguments()}, [&](Rank& rank) { … });
//
// A world that is there already (torchrun, mpirun, srun, our launcher) is taken as it is: this
// process is one rank of it. Where it is too small for a population, each process hosts several
// ranks, which it starts. Started alone, one rank needs nothing, and for more the program starts
// itself once a rank. With `local` the ranks are threads of this process instead.
//
// With ensemble.on_loss = "continue" the ranks that a lone process started may be lost: the members
// without a lost rank are started anew, as `outstep resume RUN --ensemble.lost=[…]`.

namespace outstep::apps {

struct Rank {
  const comm::World& world;
  comm::Fabric& fabric;
  Screen& screen;  // silent except on rank 0
};

struct RankOptions {
  std::vector<std::string> arguments;  // of this program, to start ranks with
  // Behind `outstep resume RUN`, to go on in the same way when a member is lost.
  std::vector<std::string> resume_flags = {};
  bool local = false;
  ScreenOptions screen;
};

// The work returns the process's exit code; the first rank's is returned. Throws what a rank threw
// first.
int run_on_ranks(const train::Recipe& recipe, const RankOptions& options,
                 const std::function<int(Rank&)>& work);

}  // namespace outstep::apps
