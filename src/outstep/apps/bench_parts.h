#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "outstep/train/assembly.h"

namespace outstep::apps {

// One timed part of a recipe.
struct Timing {
  std::string part;
  std::vector<double> seconds;  // of each repetition, warm-up left out
  double work = 0;              // done by one repetition, for a rate; 0: none
  std::string work_unit;        // "tokens", "bytes", "parameters"
  std::string note;

  double median() const;
  double least() const;
  double most() const;
};

// Times the parts of a training step on this rank: making a micro-batch, forward and backward, the
// optimizer, the collectives on a gradient, the whole step as the sync drives it, an evaluation
// batch. Every rank of the world calls it; each repetition of a part with communication begins
// together. Changes the parameters.
std::vector<Timing> time_parts(train::Recipe& recipe, train::Assembly& assembly, int repetitions);

}  // namespace outstep::apps
