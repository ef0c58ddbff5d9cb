#include "outstep/base/threads.h"

#include <pthread.h>

#include "outstep/base/errors.h"

namespace outstep {

void name_this_thread(const std::string& name) {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

SerialWorker::SerialWorker(std::string name)
    : thread_([this, name = std::move(name)](std::stop_token stop) {
        name_this_thread(name);
        run(stop);
      }) {}

SerialWorker::~SerialWorker() {
  thread_.request_stop();
  thread_.join();
}

SerialWorker::Ticket SerialWorker::post(std::function<void()> job) {
  std::lock_guard lock(mutex_);
  jobs_.push_back(std::move(job));
  changed_.notify_all();
  return ++num_posted_;
}

void SerialWorker::wait(Ticket ticket) {
  std::unique_lock lock(mutex_);
  check(ticket <= num_posted_, "a ticket is of a job that was posted here");
  changed_.wait(lock, [&] { return num_ended_ >= ticket; });
  if (error_) std::rethrow_exception(error_);
}

bool SerialWorker::wait_for(Ticket ticket, std::chrono::milliseconds at_most) {
  std::unique_lock lock(mutex_);
  check(ticket <= num_posted_, "a ticket is of a job that was posted here");
  const bool has_ended = changed_.wait_for(lock, at_most, [&] { return num_ended_ >= ticket; });
  if (error_) std::rethrow_exception(error_);
  return has_ended;
}

void SerialWorker::wait_all() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return num_ended_ == num_posted_; });
  if (error_) std::rethrow_exception(error_);
}

bool SerialWorker::is_done(Ticket ticket) {
  std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
  return num_ended_ >= ticket;
}

void SerialWorker::rethrow_error() {
  std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
}

void SerialWorker::run(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [&] { return !jobs_.empty(); })) {
    if (stop.stop_requested()) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    if (!error_) {
      lock.unlock();
      std::exception_ptr error;
      try {
        job();
      } catch (...) {
        error = std::current_exception();
      }
      job = nullptr;  // what it captured is released before anyone who waits goes on
      lock.lock();
      if (error) error_ = error;
    }
    ++num_ended_;
    changed_.notify_all();
  }
}

}  // namespace outstep
