#pragma once

#include <string>
#include <vector>

#include "outstep/io/settings.h"

namespace outstep::optim {

// The learning rate as a function of progress, in steps. A plain value, thread safe.
//
// All begin with a linear warm-up over warmup_steps: at step s (from 0) the factor is (s + 1) /
// (warmup_steps + 1). After it:
//   constant  1
//   cosine    from 1 to final_factor at total_steps, half a cosine
//   step      times gamma at each milestone (a step number)
//   wsd       warm-up, stable, decay: 1, then linear to final_factor over the last decay_fraction
//   of total_steps
struct Schedule {
  enum class Shape { constant, cosine, step, wsd };
  Shape shape = Shape::constant;
  double lr = 1e-3;
  double warmup_steps = 0;
  double total_steps = 1;
  double final_factor = 0.1;
  std::vector<int64_t> milestones = {};
  double gamma = 0.1;
  double decay_fraction = 0.2;

  // lr at a step; progress need not be whole (ACCO counts committed micro-batches).
  double at(double step) const;
};

std::vector<std::string> schedule_names();

// Reads [schedule]: `name` (constant), `warmup_steps` (0), and the shape's own keys: `final_factor`
// (cosine 0.1, wsd 0), `milestones` and `gamma`, `decay_fraction`. lr is [optimizer]'s. Throws
// ConfigError beginning with the key's origin: a warm-up that fills the run, milestones out of
// order, …
Schedule read_schedule(io::Section section, double lr, int64_t total_steps);

}  // namespace outstep::optim
