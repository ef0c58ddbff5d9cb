#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace outstep::comm {

// Threads that block in the place of their owner: each job gets a thread at once, an idle one or a
// new one, so no job waits for another's end. Jobs must not throw. The destructor waits for all
// jobs. Thread safe.
class Waiters {
 public:
  Waiters() = default;
  ~Waiters();
  Waiters(const Waiters&) = delete;
  Waiters& operator=(const Waiters&) = delete;

  // False where the system gives no more threads: the job is then the caller's.
  [[nodiscard]] bool run(std::function<void()> job);

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;  // guarded by mutex_
  size_t num_idle_ = 0;                     // guarded by mutex_
  bool is_closing_ = false;                 // guarded by mutex_
  std::vector<std::jthread> threads_;       // guarded by mutex_
};

}  // namespace outstep::comm
