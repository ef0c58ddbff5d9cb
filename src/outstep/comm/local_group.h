#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "outstep/comm/group.h"

// Ranks that are threads of one process. Messages are copied once, from tensor to tensor, by
// whoever comes second; the results are those of every other backend, bit for bit.
//
//   auto groups = comm::local_groups("pair", 2, std::chrono::seconds(5));
//   // groups[r] belongs to the thread that plays rank r
//
// A rank whose group is destroyed or aborted is gone: what others wait for from it fails at once,
// with its name.

namespace outstep::comm {

class LocalHub;

class LocalGroup : public Group {
 public:
  // names: of all ranks, for errors.
  LocalGroup(std::string name, int rank, std::shared_ptr<LocalHub> hub,
             std::chrono::milliseconds deadline);
  ~LocalGroup() override;

  void abort() noexcept override;
  std::string describe(int peer) const override;

 protected:
  Work do_send(const at::Tensor& tensor, int peer, const CallOptions& options) override;
  Work do_recv(at::Tensor tensor, int peer, const CallOptions& options) override;

 private:
  std::shared_ptr<LocalHub> hub_;
};

// The place where the ranks of one group meet. names are for errors: "rank 3 (thread)".
std::shared_ptr<LocalHub> make_local_hub(std::vector<std::string> names);

std::vector<std::unique_ptr<Group>> local_groups(
    const std::string& name, int size,
    std::chrono::milliseconds deadline = std::chrono::seconds(30));

// Plays every rank of a group of the given size on a thread of its own, and waits for all. A rank
// whose body throws leaves the group, so the others fail soon too; the first error in time is
// rethrown.
void run_local_ranks(int size, const std::function<void(Group&)>& body,
                     std::chrono::milliseconds deadline = std::chrono::seconds(30));

}  // namespace outstep::comm
