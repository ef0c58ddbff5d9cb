#pragma once

#include <cstdint>

#include "outstep/io/settings.h"

namespace outstep::ensemble {

// After which steps members are mixed: every `interval` steps, counted from start_step; from
// stop_step on never again.
struct Timing {
  int64_t interval = 1;
  int64_t start_step = 0;
  int64_t stop_step = 0;  // 0: there is none

  // step: committed updates before the one that has just been made.
  bool is_due(int64_t step) const {
    const bool has_stopped = stop_step > 0 && step >= stop_step;
    return step >= start_step && !has_stopped && (step + 1 - start_step) % interval == 0;
  }

  // interval, start_step and stop_step of [ensemble]; usual: where the recipe says nothing. Throws
  // ConfigError for a stop that is not behind the start.
  static Timing read(io::Section& section, const Timing& usual);
};

}  // namespace outstep::ensemble
