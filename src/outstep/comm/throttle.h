#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "outstep/base/clock.h"
#include "outstep/comm/wrapped_group.h"

// A link of given bandwidth and latency, simulated, to see what slow networks cost without having
// one.
//
//   auto link = std::make_shared<Link>(parse_link("200mbit,5ms"));
//   group = std::make_unique<Throttled>(std::move(group), link);
//
// Messages leave this rank one after another at the link's rate and arrive, whole, after its
// latency; both directions are independent, as each rank holds back what it sends. Where several
// ranks send to one, its incoming direction is not limited. All groups of a rank share its link.

namespace outstep::comm {

struct LinkSpeed {
  double bits_per_second = 0;
  std::chrono::microseconds latency{0};
};

// "200mbit", "10gbit,0.5ms", "1.5MB/s,5ms". Throws ConfigError for anything else.
LinkSpeed parse_link(const std::string& text);

// Runs jobs at the time at which a message of their size would have crossed the link. Thread safe.
class Link {
 public:
  explicit Link(LinkSpeed speed);
  ~Link();  // drops what has not crossed yet

  void send(int64_t num_bytes, std::function<void()> on_arrival);

 private:
  struct Message {
    Clock::time_point arrival;
    std::function<void()> on_arrival;
  };

  void run(std::stop_token stop);

  const LinkSpeed speed_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Message> messages_;  // guarded by mutex_; in order of arrival
  Clock::time_point free_at_{};   // guarded by mutex_; when the last message has left
  std::jthread thread_;           // last: it starts when all else is there
};

class Throttled : public WrappedGroup {
 public:
  Throttled(std::unique_ptr<Group> inner, std::shared_ptr<Link> link);
  ~Throttled() override;

  void abort() noexcept override;

 protected:
  Work do_send(const at::Tensor& tensor, int peer, const CallOptions& options) override;

 private:
  struct State;

  std::shared_ptr<State> state_;
  std::shared_ptr<Link> link_;
};

}  // namespace outstep::comm
