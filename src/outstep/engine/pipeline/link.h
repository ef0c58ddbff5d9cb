#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/threads.h"
#include "outstep/base/trace.h"
#include "outstep/comm/group.h"
#include "outstep/engine/pipeline/bell.h"
#include "outstep/engine/pipeline/message.h"
#include "outstep/io/state.h"

namespace outstep::engine {

enum class Towards { previous, next };

// One end of the connection between a stage and its neighbour.
//
//   link.send(message);                     // returns at once
//   Message message = link.receive(Message::Kind::gradients, 17);
//
// Messages arrive in the order in which they were sent. While a stage computes, the next message is
// already received, on a thread of the link's own ("pipe-from-1").
//
// The neighbour may itself wait for the stage beyond it, but never for what this stage has not
// sent. So a stage waits the group's deadline for each stage that lies in that direction, from when
// it begins to wait: of the stages that wait for a silent one its neighbour loses patience first,
// and names it.
//
// Ownership: tensors handed to send must not be written any more; those received belong to the
// caller. One thread calls it; the group is used from that and the link's own.
class Link : public io::Stateful {
 public:
  struct Options {
    Towards towards = Towards::next;
    at::Device device = at::kCPU;  // where tensors arrive
    Bell* bell = nullptr;          // rung when a message has arrived; borrowed
    trace::Tracer* tracer = nullptr;
  };
  // group: the stages of one pipeline, in order.
  Link(comm::Group& group, const Options& options);
  ~Link() override;

  void send(const Message& message);
  // The next message, which must be of that kind and micro-batch; nothing said: of any, which the
  // receiver then learns from it. Throws CommError naming stage and, if said, micro-batch: the
  // neighbour failed, or is silent, or sent another.
  Message receive(Message::Kind kind, std::optional<int64_t> micro_batch = std::nullopt);

  // Whether receive would not wait: a message is there, or the neighbour has failed. Never blocks.
  bool is_ready();
  std::chrono::milliseconds patience() const { return patience_; }
  // Aborts the group and throws CommError: this stage has waited since begin for what never came.
  [[noreturn]] void give_up(const std::string& what, Clock::time_point begin);

  // Takes in all that the neighbour has sent, so that nothing is on its way: both call it, between
  // two steps. What was on its way is received from here afterwards.
  void send_mark() { send({.kind = Message::Kind::mark}); }
  void receive_to_mark();

  // Seconds waited in receive since the last call.
  double take_idle_seconds() { return std::exchange(idle_seconds_, 0); }

  // What was taken in by receive_to_mark.
  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

 private:
  struct Sent {
    Message message;  // keeps the tensors
    std::vector<comm::Work> works;
  };

  Message take(const std::string& what);
  void begin_receiving();
  Message receive_now();
  void forget_what_is_sent();
  void forget_oldest();
  Message saved_message(const at::Tensor& header, const std::string& entry) const;
  CommError sending_failed(const Message& message, const CommError& why) const;
  comm::Tag tag_to(int64_t payload) const;
  comm::Tag tag_from(int64_t payload) const;
  std::string stage_text() const;

  comm::Group& group_;
  const Options options_;
  const int peer_;
  const std::chrono::milliseconds patience_;  // of waiting for a message
  const std::string entry_;                   // names it in checkpoints
  std::deque<Sent> sent_;                     // not known to have arrived
  std::deque<Message> arrived_;               // taken in before they were asked for
  std::optional<Message> incoming_;           // the job's, until it has ended
  std::optional<SerialWorker::Ticket> job_;
  std::atomic<bool> has_come_ = false;  // the job is about to end, well or not
  double idle_seconds_ = 0;
  std::unique_ptr<SerialWorker> worker_;  // last: its job uses all of the above
};

}  // namespace outstep::engine
