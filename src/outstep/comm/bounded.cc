#include "outstep/comm/bounded.h"

#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "outstep/base/threads.h"

namespace outstep::comm {

void run_bounded(std::chrono::milliseconds deadline, std::function<void()> call,
                 const std::function<CommError()>& late) {
  struct Outcome {
    std::mutex mutex;
    std::condition_variable changed;
    bool is_done = false;      // guarded by mutex
    std::exception_ptr error;  // guarded by mutex
  };
  auto outcome = std::make_shared<Outcome>();
  std::thread([outcome, call = std::move(call)]() mutable {
    name_this_thread("rendezvous");
    std::exception_ptr error;
    try {
      call();
    } catch (...) {
      error = std::current_exception();
    }
    call = nullptr;
    const std::lock_guard lock(outcome->mutex);
    outcome->is_done = true;
    outcome->error = error;
    outcome->changed.notify_all();
  }).detach();

  std::unique_lock lock(outcome->mutex);
  if (!outcome->changed.wait_for(lock, deadline, [&] { return outcome->is_done; })) throw late();
  if (outcome->error) std::rethrow_exception(outcome->error);
}

}  // namespace outstep::comm
