#pragma once

#include <chrono>
#include <functional>

#include "outstep/base/errors.h"

namespace outstep::comm {

// Runs a call that may block for ever on a thread of its own. Returns when it does and throws what
// it threw; throws late() when it has not returned by the deadline. The thread is then left behind,
// so what the call captures must own what it uses.
void run_bounded(std::chrono::milliseconds deadline, std::function<void()> call,
                 const std::function<CommError()>& late);

}  // namespace outstep::comm
