#include "outstep/comm/throttle.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/base/threads.h"
#include "outstep/comm/complaint.h"

namespace outstep::comm {
namespace {

std::optional<std::chrono::microseconds> parse_latency(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string unit(end, text.data() + text.size());
  const double microseconds = unit == "us" ? 1 : unit == "ms" ? 1e3 : unit == "s" ? 1e6 : -1;
  if (error != std::errc() || microseconds < 0 || !(value >= 0 && value * microseconds <= 1e9))
    return std::nullopt;
  return std::chrono::microseconds(static_cast<int64_t>(value * microseconds));
}

}  // namespace

LinkSpeed parse_link(const std::string& text) {
  const size_t comma = std::min(text.find(','), text.size());
  LinkSpeed speed{.bits_per_second = parse_bits_per_second(text.substr(0, comma))};
  if (speed.bits_per_second <= 0)
    throw ConfigError("a link needs a rate above 0, not \"{}\"", text);
  if (comma == text.size()) return speed;
  const auto latency = parse_latency(text.substr(comma + 1));
  if (!latency) {
    throw ConfigError("\"{}\" is no latency; a link is a rate and a latency, like \"200mbit,5ms\"",
                      text.substr(comma + 1));
  }
  speed.latency = *latency;
  return speed;
}

Link::Link(LinkSpeed speed)
    : speed_(speed), thread_([this](std::stop_token stop) {
        name_this_thread("link");
        run(stop);
      }) {}

Link::~Link() {
  thread_.request_stop();
  thread_.join();
}

void Link::send(int64_t num_bytes, std::function<void()> on_arrival) {
  const std::chrono::duration<double> duration(static_cast<double>(num_bytes) * 8 /
                                               speed_.bits_per_second);
  const std::lock_guard lock(mutex_);
  free_at_ =
      std::max(free_at_, Clock::now()) + std::chrono::duration_cast<Clock::duration>(duration);
  messages_.push_back({free_at_ + speed_.latency, std::move(on_arrival)});
  changed_.notify_all();
}

void Link::run(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [&] { return !messages_.empty(); })) {
    const Clock::time_point arrival = messages_.front().arrival;
    changed_.wait_until(lock, stop, arrival, [] { return false; });
    if (stop.stop_requested()) return;
    std::function<void()> on_arrival = std::move(messages_.front().on_arrival);
    messages_.pop_front();
    lock.unlock();
    on_arrival();
    on_arrival = nullptr;
    lock.lock();
  }
}

// Shared by a group, its transfers and the link's jobs.
struct Throttled::State {
  std::mutex mutex;
  std::condition_variable changed;
  Group* inner = nullptr;  // guarded by mutex; null when the group is gone or aborted

  // With the mutex held. What is still on the simulated link never arrives.
  void abort() {
    if (inner != nullptr) inner->abort();
    inner = nullptr;
    changed.notify_all();
  }
};

Throttled::Throttled(std::unique_ptr<Group> inner, std::shared_ptr<Link> link)
    : WrappedGroup(std::move(inner)), state_(std::make_shared<State>()), link_(std::move(link)) {
  state_->inner = &this->inner();
}

Throttled::~Throttled() {
  const std::lock_guard lock(state_->mutex);
  state_->inner = nullptr;
  state_->changed.notify_all();
}

void Throttled::abort() noexcept {
  inner().abort();  // first, as a send of the link's thread holds the mutex
  const std::lock_guard lock(state_->mutex);
  state_->abort();
}

Work Throttled::do_send(const at::Tensor& tensor, int peer, const CallOptions& options) {
  // A message on its way over the simulated link; then the inner group's.
  class Crossing : public Work::Transfer {
   public:
    Crossing(std::shared_ptr<State> state, std::string name, CallOptions call)
        : state_(std::move(state)), name_(std::move(name)), call_(call) {}

    void arrive(const at::Tensor& message, int to) {
      const std::lock_guard lock(state_->mutex);
      if (state_->inner == nullptr) return;
      try {
        work_ = state_->inner->send(message, to, call_);
      } catch (const std::exception&) {
        error_ = std::current_exception();
      }
      has_arrived_ = true;
      state_->changed.notify_all();
    }

    void wait() override {
      {
        const auto begun = Clock::now();
        std::unique_lock lock(state_->mutex);
        const bool in_time = state_->changed.wait_for(
            lock, *call_.deadline, [&] { return has_arrived_ || state_->inner == nullptr; });
        if (error_) std::rethrow_exception(error_);
        if (!has_arrived_) {
          state_->abort();
          throw CommError(
              "{} had not been sent the message of {} when {}, {:.2f} s of {}", name_,
              describe_call(call_),
              in_time ? "this rank aborted the group" : "time was up on the simulated link",
              seconds_since(begun), describe_deadline(*call_.deadline));
        }
      }
      work_.wait();
    }

    bool is_done() override {
      {
        const std::lock_guard lock(state_->mutex);
        if (error_ || (!has_arrived_ && state_->inner == nullptr)) return true;
        if (!has_arrived_) return false;
      }
      return work_.is_done();
    }

   private:
    const std::shared_ptr<State> state_;
    const std::string name_;
    const CallOptions call_;
    bool has_arrived_ = false;  // guarded by the state's mutex
    std::exception_ptr error_;  // guarded by the state's mutex
    Work work_;                 // not written any more when has_arrived_
  };

  auto crossing = std::make_shared<Crossing>(state_, describe(peer), options);
  link_->send(static_cast<int64_t>(tensor.nbytes()),
              [crossing, tensor, peer] { crossing->arrive(tensor, peer); });
  return Work(crossing);
}

}  // namespace outstep::comm
