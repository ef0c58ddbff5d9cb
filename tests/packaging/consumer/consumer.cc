// One rank of a run: consumer RECIPE RUN_FOLDER [KEY=VALUE …]. The example of docs/library.md.
#include <iostream>

#include "outstep/base/errors.h"
#include "outstep/comm/fabric.h"
#include "outstep/train/run_folder.h"
#include "outstep/train/trainer.h"

int main(int argc, char** argv) try {
  using namespace outstep;
  if (argc < 3) throw ConfigError("usage: consumer RECIPE RUN_FOLDER [KEY=VALUE …]");
  train::Recipe recipe = train::read_recipe(argv[1], {argv + 3, argv + argc});

  const comm::World world =
      comm::world_from_environment();  // torchrun's, mpirun's, outstep launch's
  train::require_world(recipe.mesh, world);
  const auto fabric = comm::connect(world, recipe.comm);
  const data::Places places{.data_root = "data", .shipped = OUTSTEP_SHARE_DIR "/data"};
  const auto assembly = train::assemble(recipe, places, *fabric, nullptr);

  const auto folder = train::make_run_folder(argv[2], recipe.name, *assembly->world_group);
  const train::Summary summary = train::run_training(recipe, *assembly, {.run_folder = folder});
  if (world.rank == 0) {
    std::cout << assembly->params->num_parameters() << " parameters, " << summary.steps
              << " steps\n";
  }
  return 0;
} catch (const outstep::Error& error) {
  std::cerr << error.what() << "\n";
  return error.exit_code();
}
