#pragma once

#include <memory>
#include <string>
#include <vector>

#include "outstep/train/assembly.h"

// Names become objects here: one table per choice, a line a method, no registration at a distance.
// To add a method, write it in its room and add its line to tables.cc.

namespace outstep::train {

std::vector<std::string> engine_names();
std::vector<std::string> sync_names();
std::vector<std::string> ensemble_names();
std::vector<std::string> optimizer_names();

// Each reads its section of the recipe and needs what stands above it in Assembly to be built.
std::unique_ptr<method::GradientEngine> make_engine(Recipe& recipe, Assembly& assembly,
                                                    trace::Tracer* tracer);
std::unique_ptr<optim::Optimizer> make_optimizer(Recipe& recipe, const Assembly& assembly);
std::unique_ptr<method::Synchronizer> make_synchronizer(Recipe& recipe, Assembly& assembly);
std::unique_ptr<method::Mixer> make_mixer(Recipe& recipe, Assembly& assembly);

}  // namespace outstep::train
