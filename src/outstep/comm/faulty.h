#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>

#include "outstep/comm/wrapped_group.h"

namespace outstep::comm {

// What goes wrong at one transfer of a rank, counted from 0 over sends and receives, those of
// collectives too.
struct Fault {
  enum class Kind {
    fail,   // its wait throws a CommError at once
    hang,   // it never ends: its wait runs into the deadline
    delay,  // posting it takes as long as `duration`, as on a rank that is busy
    call    // `action` runs first: kill the process, abort a group
  };
  Kind kind = Kind::fail;
  int64_t at_transfer = 0;
  std::chrono::milliseconds duration{0};
  std::function<void()> action = nullptr;
};

// A group in which one transfer fails on cue, for tests.
class Faulty : public WrappedGroup {
 public:
  Faulty(std::unique_ptr<Group> inner, Fault fault);
  ~Faulty() override;

  void abort() noexcept override;
  int64_t num_transfers() const { return num_transfers_; }

 protected:
  Work do_send(const at::Tensor& tensor, int peer, const CallOptions& options) override;
  Work do_recv(at::Tensor tensor, int peer, const CallOptions& options) override;

 private:
  struct State;

  // The work of the transfer that goes wrong, or nothing: then it is to be posted as usual.
  std::optional<Work> strike(int peer, const CallOptions& options);

  const Fault fault_;
  std::atomic<int64_t> num_transfers_{0};
  std::shared_ptr<State> state_;
};

}  // namespace outstep::comm
