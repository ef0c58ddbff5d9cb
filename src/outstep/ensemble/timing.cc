#include "outstep/ensemble/timing.h"

#include "outstep/base/errors.h"

namespace outstep::ensemble {

Timing Timing::read(io::Section& section, const Timing& usual) {
  Timing timing;
  timing.interval = section.integer("interval", usual.interval, {.min = 1});
  timing.start_step = section.integer("start_step", usual.start_step, {.min = 0});
  timing.stop_step = section.integer("stop_step", usual.stop_step, {.min = 0});
  if (timing.stop_step > 0 && timing.stop_step <= timing.start_step) {
    throw ConfigError(
        "{}: ensemble.stop_step is {}, not behind ensemble.start_step = {}; 0 never stops",
        section.origin("stop_step"), timing.stop_step, timing.start_step);
  }
  return timing;
}

}  // namespace outstep::ensemble
