#pragma once

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

// For tests of who waits for whom, whatever the machine is doing meanwhile: a clock that goes on
// only when every thread of this process sleeps, here or anywhere else.
//
//   VirtualClock clock;
//   // each rank, on a thread of its own
//   clock.sleep(4, rank);  // stands for computing that takes four units
//   clock.now();           // how late it is
//
// Sleepers wake one by one, each when all is quiet again, those of the same time by number: what
// happens does not depend on the scheduler. One number must not sleep twice until the same time.

namespace outstep::sync::testing {

class VirtualClock {
 public:
  VirtualClock()
      : thread_([this](std::stop_token stop) {
          while (!stop.stop_requested()) {
            if (is_quiet()) wake_next();
            std::this_thread::sleep_for(std::chrono::microseconds(20));
          }
        }) {}

  double now() {
    const std::lock_guard lock(mutex_);
    return now_;
  }

  void sleep(double units, int number) {
    std::unique_lock lock(mutex_);
    Sleeper self;
    sleepers_.emplace(std::pair(now_ + units, number), &self);
    self.changed.wait(lock, [&] { return self.is_awake; });
  }

 private:
  struct Sleeper {
    std::condition_variable changed;
    bool is_awake = false;
  };
  // How often each thread but this one has left the processor, by thread. None if one is running.
  using Threads = std::map<std::string, int64_t>;

  static std::optional<Threads> threads_if_all_sleep() {
    Threads threads;
    for (const auto& folder : std::filesystem::directory_iterator("/proc/self/task")) {
      const std::string id = folder.path().filename().string();
      if (id == std::to_string(gettid())) continue;
      std::ifstream status(folder.path() / "status");
      bool sleeps = false;
      for (std::string key, value; status >> key && std::getline(status, value);) {
        if (key == "State:") sleeps = value.find('S') != std::string::npos;
        if (key.ends_with("voluntary_ctxt_switches:")) threads[id] += std::stoll(value);
      }
      if (!sleeps) return std::nullopt;
    }
    return threads;
  }
  // Nobody ran between two looks: then nobody had been woken at the first one either.
  static bool is_quiet() {
    const auto threads = threads_if_all_sleep();
    return threads && threads == threads_if_all_sleep();
  }

  void wake_next() {
    const std::lock_guard lock(mutex_);
    if (sleepers_.empty()) return;
    const auto next = sleepers_.begin();
    now_ = next->first.first;
    next->second->is_awake = true;
    next->second->changed.notify_all();
    sleepers_.erase(next);
  }

  std::mutex mutex_;
  double now_ = 0;                                       // guarded by mutex_
  std::map<std::pair<double, int>, Sleeper*> sleepers_;  // guarded by mutex_; by time and number
  std::jthread thread_;                                  // last: it starts when all else is there
};

}  // namespace outstep::sync::testing
