#pragma once

namespace outstep::train {

// Seconds since this process was started, to a hundredth: with it the time to the first step counts
// loading of libraries and data too. 0 where /proc is not there.
double process_age_seconds();

}  // namespace outstep::train
