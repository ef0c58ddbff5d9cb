#pragma once

#include <mpi.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "outstep/comm/complaint.h"
#include "outstep/comm/group.h"

// Only mpi_*.cc may include this header: it needs an MPI.

namespace outstep::comm {

// A transfer as MPI sees it; large ones travel in several messages.
struct MpiMessages {
  at::Tensor tensor;
  bool is_send = false;
  std::vector<MPI_Request> requests;
};

// MPI from its start to its end. All calls are made one at a time, after enter(), so any build of
// MPI will do.
class MpiRuntime {
 public:
  // Starts MPI. Throws CommError.
  MpiRuntime();
  // Ends MPI, unless something failed: then other ranks may never come to the end, and the launcher
  // clears up.
  ~MpiRuntime();

  // The right to call MPI. Not owned where a call of another thread never came back: then MPI is
  // not to be called any more, and what it may still use is to be left alone.
  using Lock = std::unique_lock<std::timed_mutex>;
  Lock enter();
  // From now on MPI_Finalize, which waits for all ranks, is not called.
  void mark_failed() { has_failed_ = true; }
  // A call did not come back by its deadline.
  void mark_stuck() { has_failed_ = is_stuck_ = true; }
  int obituary_tag() const { return obituary_tag_; }
  // With the lock: takes over what nobody waits for any more, as MPI may still use the tensor.
  void abandon(MpiMessages messages);

 private:
  bool abandoned_are_over();

  std::timed_mutex mutex_;
  std::atomic<bool> has_failed_{false};
  std::atomic<bool> is_stuck_{false};
  int obituary_tag_ = 0;                // above all others
  std::vector<MpiMessages> abandoned_;  // guarded by mutex_
};

// Throws CommError with MPI's words where a call failed.
void check_mpi(int code, const char* call);

struct MpiCore;

// Point-to-point by Isend and Irecv, waited for by testing with pauses: MPI moves messages only
// while some thread of the rank waits or tests, and has no wait with a deadline. A rank that gives
// up tells the others by a last message.
class MpiGroup : public Group {
 public:
  // communicator: of this group alone. names: by rank in the group.
  MpiGroup(std::string name, std::shared_ptr<MpiRuntime> runtime, MPI_Comm communicator,
           std::vector<std::string> names, int rank, std::chrono::milliseconds deadline);
  ~MpiGroup() override;

  void abort() noexcept override;
  std::string describe(int peer) const override;

 protected:
  Work do_send(const at::Tensor& tensor, int peer, const CallOptions& options) override;
  Work do_recv(at::Tensor tensor, int peer, const CallOptions& options) override;

 private:
  Work post(const at::Tensor& tensor, int peer, bool is_send, const CallOptions& options);

  std::shared_ptr<MpiCore> core_;
};

}  // namespace outstep::comm
