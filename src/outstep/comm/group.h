#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "outstep/base/clock.h"
#include "outstep/base/torch.h"
#include "outstep/comm/shards.h"

// Ranks that communicate, and what they can do together.
//
//   Work incoming = group.recv(buffer, left, {.tag = 7});  // receives first: both directions of a
//   group.send(data, right, {.tag = 7}).wait();            // link are used
//   incoming.wait();
//   group.all_reduce(gradient, {.tag = 8});
//
// Point-to-point calls return at once; collectives run on the calling thread and return when they
// are done. To overlap a collective with computing, call it from a thread of your own
// (SerialWorker) on a group of its own. Sums are taken in rank order, so results are bit-equal from
// run to run and across backends. Messages of one tag between two ranks arrive in the order they
// were sent; an empty tensor is not sent at all.
//
// Ownership: a tensor handed to send must not be written, one handed to recv not touched, until the
// Work is done; the Work keeps them alive. Tensors must be contiguous.
//
// Deadlines bound waiting: they count from the first wait (or is_done) of a transfer, so that a
// receive may be posted long before its message is due.
//
// Errors: CommError naming the peer, the operation, the tag, and the time elapsed of the deadline.
// After one the group is of no use: every later call throws, and the peers' calls fail soon.
//
// Thread safe for point-to-point; one collective at a time per group.

namespace outstep::comm {

using Tag = uint32_t;  // user tags stay below kReservedTags; collectives add their own bits above
inline constexpr Tag kReservedTags = 1u << 20;  // MPI over InfiniBand has tags below 2^23 only

struct CallOptions {
  Tag tag = 0;
  std::optional<std::chrono::milliseconds> deadline = std::nullopt;  // else the group's
  // For errors and the flight recorder, as ("gradients, step 12"). Literals, as is operation.
  const char* what = "";
  int64_t step = -1;
  const char* operation = "";  // filled in by collectives: what a transfer is part of
};

// One transfer under way. Copies refer to the same transfer.
class Work {
 public:
  // What a backend implements.
  class Transfer {
   public:
    virtual ~Transfer() = default;
    virtual void wait() = 0;     // throws CommError; may be called again
    virtual bool is_done() = 0;  // never blocks; true also when it failed (wait then throws)
  };

  Work() = default;  // done already
  explicit Work(std::shared_ptr<Transfer> transfer) : transfer_(std::move(transfer)) {}
  void wait() {
    if (transfer_) transfer_->wait();
  }
  bool is_done() { return !transfer_ || transfer_->is_done(); }

 private:
  std::shared_ptr<Transfer> transfer_;
};

// What travels in place of float32 in a collective. With bf16 every rank's contribution is rounded
// to bfloat16, the own one too, and sums are taken in float32: all ranks agree on every bit, and no
// result depends on who owns what.
enum class Wire { exact, bf16 };

// How many elements a rank sends to each rank, itself among them, and receives from it; any may be
// zero. What rank a sends to b is what b receives from a: every rank knows its own in advance.
struct Splits {
  std::vector<int64_t> sent;      // by rank
  std::vector<int64_t> received;  // by rank
};

class Group {
 public:
  virtual ~Group() = default;
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }
  std::chrono::milliseconds deadline() const { return deadline_; }

  Work send(const at::Tensor& tensor, int peer, CallOptions options = {});
  Work recv(at::Tensor tensor, int peer, CallOptions options = {});

  // Every rank's tensor becomes the sum over all ranks. Any dtype with addition (bfloat16 and half
  // tensors are summed in float32 and rounded once). With Wire::bf16 the sum is rounded to bfloat16
  // as well.
  virtual void all_reduce(at::Tensor tensor, CallOptions options = {}, Wire wire = Wire::exact);
  // output [shard of this rank] becomes the sum over all ranks of their input's [shards.total] part
  // of that shard.
  virtual void reduce_scatter(const at::Tensor& input, at::Tensor output, const Shards& shards,
                              CallOptions options = {}, Wire wire = Wire::exact);
  // output [shards.total] becomes the concatenation of all ranks' input [shard of that rank]. input
  // may be a view of output's own shard. With Wire::bf16 the own shard in output is rounded like
  // the others.
  virtual void all_gather(const at::Tensor& input, at::Tensor output, const Shards& shards,
                          CallOptions options = {}, Wire wire = Wire::exact);
  // Row r of input [size, …] goes to rank r; row r of output [size, …] comes from rank r.
  virtual void all_to_all(const at::Tensor& input, at::Tensor output, CallOptions options = {});
  // The same of vectors cut unevenly: input [sum of splits.sent] to output [sum of
  // splits.received].
  virtual void all_to_all(const at::Tensor& input, at::Tensor output, const Splits& splits,
                          CallOptions options = {});
  virtual void broadcast(at::Tensor tensor, int root, CallOptions options = {});
  virtual void barrier(CallOptions options = {});

  // Makes every wait of this process on this group end with a CommError soon, from any thread.
  virtual void abort() noexcept = 0;
  // How a person would name the peer: "rank 1 (host:pid)".
  virtual std::string describe(int peer) const;

  // Payload sent since the group was made, by collectives too.
  virtual int64_t bytes_sent() const { return bytes_sent_.load(std::memory_order_relaxed); }

 protected:
  Group(std::string name, int rank, int size, std::chrono::milliseconds deadline)
      : name_(std::move(name)), rank_(rank), size_(size), deadline_(deadline) {}

  void count_sent(int64_t num_bytes) {
    bytes_sent_.fetch_add(num_bytes, std::memory_order_relaxed);
  }

  // Backends implement these two; peer is valid and never this rank, the deadline is set, the
  // tensor is contiguous.
  virtual Work do_send(const at::Tensor& tensor, int peer, const CallOptions& options) = 0;
  virtual Work do_recv(at::Tensor tensor, int peer, const CallOptions& options) = 0;

 private:
  std::string name_;
  int rank_;
  int size_;
  std::chrono::milliseconds deadline_;
  std::atomic<int64_t> bytes_sent_{0};
};

}  // namespace outstep::comm
