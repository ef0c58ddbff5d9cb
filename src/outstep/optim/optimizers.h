#pragma once

#include <memory>
#include <string>
#include <vector>

#include "outstep/io/settings.h"
#include "outstep/optim/optimizer.h"

// The optimizers by name, and their keys in [optimizer]:
//
//   sgd    momentum = 0.9, nesterov = false, weight_decay = 0
//   adamw  betas = [0.9, 0.999], eps = 1e-8, weight_decay = 0.01
//
// lr is a key of every optimizer; the schedule multiplies it.

namespace outstep::optim {

std::vector<std::string> optimizer_names();

// Reads `name` and the named optimizer's keys. segments: where weight decay applies; see Segment.
// Throws ConfigError beginning with the key's origin.
std::unique_ptr<Optimizer> make_optimizer(io::Section& section, std::vector<Segment> segments);

// Reads `lr`, above 0. The default is the named optimizer's: 0.1 for sgd, 0.001 for adamw.
double read_lr(io::Section& section);

}  // namespace outstep::optim
