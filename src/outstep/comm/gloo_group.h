#pragma once

#include <memory>
#include <string>
#include <vector>

#include "outstep/comm/group.h"
#include "outstep/comm/rendezvous.h"

// Ranks of several processes or machines over TCP: c10d's ProcessGroupGloo, of which only tagged
// send and recv are used.
//
// A wait that fails closes all of the group's connections, as abort() does: that is what wakes the
// waits of other threads at once, and tells the peers. Closing works by receives that are
// posted when the group is made and never answered: Gloo closes a group whose wait has timed out.
// Gloo ends the process when a message is longer than the tensor it is received into; shorter ones
// it lets pass.

namespace outstep::comm {

struct GlooCore;
class Waiters;

// Listens at one address for all groups of this process. Copies share it.
class GlooDevice {
 public:
  // Throws CommError where the address is not one of this machine.
  explicit GlooDevice(const std::string& address);

 private:
  friend class GlooGroup;
  struct Handle;
  std::shared_ptr<Handle> handle_;
};

struct GlooPlace {
  std::string name;                // of the group
  std::string key;                 // at the meeting place; no two groups may share it
  std::vector<int> ranks;          // world ranks, by rank in the group
  int rank = 0;                    // in the group
  std::vector<std::string> names;  // by rank in the group, "rank 3 (10.77.0.2:4711)"
  std::chrono::milliseconds deadline{30'000};
};

class GlooGroup : public Group {
 public:
  // Returns when all of its ranks have connected. Throws CommError naming those that did not come.
  GlooGroup(Rendezvous& rendezvous, const GlooDevice& device, GlooPlace place);
  ~GlooGroup() override;

  void abort() noexcept override;
  std::string describe(int peer) const override;

 protected:
  Work do_send(const at::Tensor& tensor, int peer, const CallOptions& options) override;
  Work do_recv(at::Tensor tensor, int peer, const CallOptions& options) override;

 private:
  Work post(at::Tensor tensor, int peer, bool is_send, const CallOptions& options);
  void watch(int peer);

  std::shared_ptr<GlooCore> core_;
  std::shared_ptr<Waiters> waiters_;  // for is_done of transfers nobody waits for, and watching
};

}  // namespace outstep::comm
