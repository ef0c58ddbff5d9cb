#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>

namespace outstep::engine {

// Lets one thread wait for whichever of several others has something for it. Those make it known
// where the condition sees it (an atomic), then ring.
class Bell {
 public:
  void ring() {
    {
      const std::lock_guard lock(mutex_);
    }  // whoever is about to wait either sees it or hears it
    rung_.notify_all();
  }
  // Whether the condition came to hold in time.
  bool wait_for(std::chrono::milliseconds at_most, const std::function<bool()>& condition) {
    std::unique_lock lock(mutex_);
    return rung_.wait_for(lock, at_most, condition);
  }

 private:
  std::mutex mutex_;
  std::condition_variable rung_;
};

}  // namespace outstep::engine
