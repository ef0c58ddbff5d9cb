#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

// Named threads, and the one kind of background worker the project uses.

namespace outstep {

// Names the calling thread as debuggers, top and perf show it (15 characters at most are kept).
void name_this_thread(const std::string& name);

// Runs jobs one after another, in the order they were posted, on one named thread.
//
//   SerialWorker worker("comm");
//   auto ticket = worker.post([&] { all_reduce(group, bucket); });
//   worker.wait(ticket);               // rethrows what the job threw
//
// After a job has thrown, later jobs are dropped and every wait rethrows the first error. The
// destructor lets the running job finish, drops the others and joins: a job must therefore have a
// deadline of its own. Thread safe.
class SerialWorker {
 public:
  using Ticket = uint64_t;

  explicit SerialWorker(std::string name);
  ~SerialWorker();
  SerialWorker(const SerialWorker&) = delete;
  SerialWorker& operator=(const SerialWorker&) = delete;

  Ticket post(std::function<void()> job);
  void wait(Ticket ticket);                                         // until that job has ended
  bool wait_for(Ticket ticket, std::chrono::milliseconds at_most);  // whether it has ended
  void wait_all();              // until every posted job has ended
  bool is_done(Ticket ticket);  // never blocks; rethrows like wait
  // Throws the first error a job has thrown, if any; the border at which a background error reaches
  // its caller.
  void rethrow_error();

 private:
  void run(std::stop_token stop);

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::function<void()>> jobs_;  // guarded by mutex_
  Ticket num_posted_ = 0;                   // guarded by mutex_
  Ticket num_ended_ = 0;                    // guarded by mutex_
  std::exception_ptr error_;                // guarded by mutex_
  std::jthread thread_;                     // last: it starts when all else is there
};

}  // namespace outstep
