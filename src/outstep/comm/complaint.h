#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/comm/group.h"

// How a failed transfer is told: who, what, during which operation, and how long was waited.
//
//   rank 1 (10.77.0.2:4711) closed its connection during all_gather, tag 9 ("gradients, step 118"),
//   0.04 s of 30 s

namespace outstep::comm {

// What a transfer needs to remember for its error message. Copies share the names.
struct Complaint {
  // Of all ranks of the group: "rank 1 (host:pid)".
  std::shared_ptr<const std::vector<std::string>> names;
  int peer = 0;
  CallOptions options;  // deadline and operation filled in

  // event: what the peer did, "closed its connection". A deadline of 30 s counts from
  // waiting_since.
  CommError error(std::string_view event, Clock::time_point waiting_since) const;
  std::chrono::milliseconds deadline() const { return *options.deadline; }
};

// Why a rank takes no part in its group any more; shared by the group and its transfers. Thread
// safe.
class Departure {
 public:
  // The first reason counts ("aborted the group"); returns whether this was it.
  bool set(const std::string& reason);
  std::optional<std::string> reason() const;
  // The reason, or nothing if none is given within patience.
  std::optional<std::string> wait_for_reason(std::chrono::milliseconds patience) const;
  // Throws what every later call on the group throws; self: this rank's name.
  void throw_if_set(const std::string& self) const;

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable is_set_;
  std::optional<std::string> reason_;  // guarded by mutex_
};

// `all_gather, tag 9 ("gradients, step 118")`
std::string describe_call(const CallOptions& options);
// "30 s", "0.04 s", "250 ms" for deadlines below a second.
std::string describe_deadline(std::chrono::milliseconds deadline);

}  // namespace outstep::comm
