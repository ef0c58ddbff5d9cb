#pragma once

#include <memory>
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
  std::shared_ptr<const std::vector<std::string>>
      names;  // of all ranks of the group, "rank 1 (host:pid)"
  int peer = 0;
  CallOptions options;  // deadline and operation filled in

  // event: what the peer did, "closed its connection". A deadline of 30 s counts from
  // waiting_since.
  CommError error(std::string_view event, Clock::time_point waiting_since) const;
  std::chrono::milliseconds deadline() const { return *options.deadline; }
};

// `all_gather, tag 9 ("gradients, step 118")`
std::string describe_call(const CallOptions& options);
// "30 s", "0.04 s", "250 ms" for deadlines below a second.
std::string describe_deadline(std::chrono::milliseconds deadline);

}  // namespace outstep::comm
