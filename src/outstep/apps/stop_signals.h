#pragma once

#include <atomic>
#include <chrono>

// SIGINT and SIGTERM during training: the first asks for an orderly stop (finish the step, save a
// checkpoint, leave), the second ends the process at once. Signals soon after the first are the
// same wish: a terminal and a launcher may both deliver it, and GNU timeout does so twice.
//
// Process-wide, as signals are: all that live at a time (ranks as threads) share one wish.

namespace outstep::apps {

// From the first signal on.
constexpr std::chrono::milliseconds kSameWish{500};

class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // Set by the first signal; for TrainerOptions::stop.
  const std::atomic<bool>& stop() const;
  // The first signal, 0 before it.
  int signal() const;
};

}  // namespace outstep::apps
