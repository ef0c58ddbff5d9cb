#include "outstep/comm/faulty.h"

#include <condition_variable>
#include <mutex>

#include "outstep/base/errors.h"
#include "outstep/comm/complaint.h"

namespace outstep::comm {

// Shared by the group and the transfer that goes wrong, which may outlive it.
struct Faulty::State {
  std::mutex mutex;
  std::condition_variable changed;
  Group* inner = nullptr;  // guarded by mutex; null when the group is gone or aborted

  void abort() {
    const std::lock_guard lock(mutex);
    if (inner != nullptr) inner->abort();
    inner = nullptr;
    changed.notify_all();
  }
  void wait(Clock::time_point end) {
    std::unique_lock lock(mutex);
    changed.wait_until(lock, end, [&] { return inner == nullptr; });
  }
  bool is_aborted() {
    const std::lock_guard lock(mutex);
    return inner == nullptr;
  }
};

Faulty::Faulty(std::unique_ptr<Group> inner, Fault fault)
    : WrappedGroup(std::move(inner)), fault_(std::move(fault)), state_(std::make_shared<State>()) {
  state_->inner = &this->inner();
}

Faulty::~Faulty() {
  const std::lock_guard lock(state_->mutex);
  state_->inner = nullptr;
  state_->changed.notify_all();
}

void Faulty::abort() noexcept { state_->abort(); }

Work Faulty::do_send(const at::Tensor& tensor, int peer, const CallOptions& options) {
  if (auto work = strike(peer, options)) return *work;
  return WrappedGroup::do_send(tensor, peer, options);
}

Work Faulty::do_recv(at::Tensor tensor, int peer, const CallOptions& options) {
  if (auto work = strike(peer, options)) return *work;
  return WrappedGroup::do_recv(std::move(tensor), peer, options);
}

std::optional<Work> Faulty::strike(int peer, const CallOptions& options) {
  // A transfer that ends badly, when its time is up or the group is aborted.
  class Doomed : public Work::Transfer {
   public:
    Doomed(std::shared_ptr<State> state, std::chrono::milliseconds time, std::string event,
           Complaint complaint)
        : state_(std::move(state)),
          time_(time),
          event_(std::move(event)),
          complaint_(std::move(complaint)) {}

    void wait() override {
      const auto begun = this->begun();
      state_->wait(begun + time_);
      const CommError error = complaint_.error(event_, begun);
      state_->abort();
      throw error;
    }
    bool is_done() override { return Clock::now() >= begun() + time_ || state_->is_aborted(); }

   private:
    Clock::time_point begun() {
      const std::lock_guard lock(state_->mutex);
      if (!begun_) begun_ = Clock::now();
      return *begun_;
    }

    const std::shared_ptr<State> state_;
    const std::chrono::milliseconds time_;
    const std::string event_;
    const Complaint complaint_;
    std::optional<Clock::time_point> begun_;  // guarded by the state's mutex
  };

  if (num_transfers_++ != fault_.at_transfer) return std::nullopt;
  std::vector<std::string> names;
  for (int rank = 0; rank < size(); ++rank) names.push_back(describe(rank));
  const Complaint complaint{
      .names = std::make_shared<const std::vector<std::string>>(std::move(names)),
      .peer = peer,
      .options = options};
  switch (fault_.kind) {
    case Fault::Kind::fail:
      return Work(std::make_shared<Doomed>(state_, std::chrono::milliseconds(0), "failed on cue",
                                           complaint));
    case Fault::Kind::hang:
      return Work(
          std::make_shared<Doomed>(state_, complaint.deadline(), "did not answer", complaint));
    case Fault::Kind::delay:
      state_->wait(Clock::now() + fault_.duration);
      return std::nullopt;
    case Fault::Kind::call:
      fault_.action();
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace outstep::comm
