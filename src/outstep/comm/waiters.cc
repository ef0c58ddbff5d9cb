#include "outstep/comm/waiters.h"

#include "outstep/base/threads.h"

namespace outstep::comm {

Waiters::~Waiters() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
    changed_.notify_all();
  }
  threads_.clear();
}

bool Waiters::run(std::function<void()> job) {
  const std::lock_guard lock(mutex_);
  if (jobs_.size() >= num_idle_) {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      return false;
    }
  }
  jobs_.push_back(std::move(job));
  changed_.notify_one();
  return true;
}

void Waiters::work() {
  name_this_thread("comm wait");
  std::unique_lock lock(mutex_);
  while (true) {
    ++num_idle_;
    changed_.wait(lock, [&] { return is_closing_ || !jobs_.empty(); });
    --num_idle_;
    if (jobs_.empty()) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    job = nullptr;
    lock.lock();
  }
}

}  // namespace outstep::comm
