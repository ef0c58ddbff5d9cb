#include "outstep/engine/pipeline/link.h"

#include <fmt/format.h>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"

namespace outstep::engine {
namespace {

// Batches to evaluate that are under way at once: a stage that runs ahead waits here. In training
// the schedule bounds them, and waiting for one direction while the neighbour waits for the other
// could last for ever.
constexpr size_t kMaxEvaluations = 4;
// Of a transfer that nobody waits for yet; the waiting is bounded where it happens.
constexpr std::chrono::hours kPatience{24 * 365};

// Dense memory in the order of its strides, which is what can be sent and received.
at::Tensor as_row_major(const at::Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : tensor.permute({0, 2, 3, 1});
}

at::Tensor as_sendable(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.is_contiguous()) return tensor;
  if (tensor.dim() == 4 && tensor.is_contiguous(at::MemoryFormat::ChannelsLast)) return tensor;
  return tensor.contiguous();
}

// Says that a job has ended, however it did.
class Announcement {
 public:
  Announcement(std::atomic<bool>& has_come, Bell* bell) : has_come_(has_come), bell_(bell) {}
  ~Announcement() {
    has_come_ = true;
    if (bell_) bell_->ring();
  }
  Announcement(const Announcement&) = delete;
  Announcement& operator=(const Announcement&) = delete;

 private:
  std::atomic<bool>& has_come_;
  Bell* bell_;
};

nn::Streams as_sendable(const nn::Streams& streams) {
  return {.x = as_sendable(streams.x), .other = as_sendable(streams.other)};
}

}  // namespace

Link::Link(comm::Group& group, const Options& options)
    : group_(group),
      options_(options),
      peer_(group.rank() + (options.towards == Towards::next ? 1 : -1)),
      patience_(group.deadline() * (options.towards == Towards::next
                                        ? group.size() - 1 - group.rank()
                                        : group.rank())),
      entry_(options.towards == Towards::next ? "link.next" : "link.previous"),
      worker_(std::make_unique<SerialWorker>(fmt::format("pipe-from-{}", peer_))) {
  check(peer_ >= 0 && peer_ < group.size(), "a link has a stage at its other end");
}

// A receive that is still under way ends only with its message or with the group.
Link::~Link() {
  if (job_) group_.abort();
}

comm::Tag Link::tag_to(int64_t payload) const {
  const int64_t direction = options_.towards == Towards::next ? 0 : 1;
  return static_cast<comm::Tag>(2 * direction + payload);
}

comm::Tag Link::tag_from(int64_t payload) const {
  const int64_t direction = options_.towards == Towards::next ? 1 : 0;
  return static_cast<comm::Tag>(2 * direction + payload);
}

std::string Link::stage_text() const {
  return fmt::format("stage {} ({})", peer_, group_.describe(peer_));
}

CommError Link::sending_failed(const Message& message, const CommError& why) const {
  return CommError("sending {} to {}: {}", text_of(message.kind, message.micro_batch), stage_text(),
                   why.what());
}

void Link::send(const Message& message) {
  forget_what_is_sent();
  Sent sent{.message = message, .works = {}};
  sent.message.streams = as_sendable(message.streams);
  sent.message.gradient = as_sendable(message.gradient);
  const char* what = describe(message.kind);
  const bool is_evaluation = message.kind == Message::Kind::evaluation;
  const std::chrono::milliseconds deadline = is_evaluation ? patience_ : kPatience;
  const auto post = [&](const at::Tensor& tensor, int64_t payload) {
    sent.works.push_back(group_.send(
        tensor, peer_,
        {.tag = tag_to(payload), .deadline = deadline, .what = what, .step = message.micro_batch}));
  };
  try {
    post(header_of(sent.message), 0);
    for (const at::Tensor& tensor : sent.message.tensors()) {
      if (tensor.defined()) post(as_row_major(tensor), 1);
    }
  } catch (const CommError& error) {
    throw sending_failed(message, error);
  }
  sent_.push_back(std::move(sent));
  while (is_evaluation && sent_.size() > kMaxEvaluations) {
    forget_oldest();
  }
}

// Waits until it has arrived.
void Link::forget_oldest() {
  Sent& oldest = sent_.front();
  try {
    for (comm::Work& work : oldest.works) work.wait();
  } catch (const CommError& error) {
    throw sending_failed(oldest.message, error);
  }
  sent_.pop_front();
}

// Their tensors can go.
void Link::forget_what_is_sent() {
  // Of each message its last transfer is asked, and all of them at once: a first question may only
  // begin to find out.
  size_t num_arrived = 0;
  for (size_t i = 0; i < sent_.size(); ++i) {
    if (sent_[i].works.back().is_done() && num_arrived == i) ++num_arrived;
  }
  for (; num_arrived > 0; --num_arrived) forget_oldest();
}

Message Link::receive(Message::Kind kind, std::optional<int64_t> micro_batch) {
  forget_what_is_sent();
  Message message;
  if (arrived_.empty() || is_aside(kind)) {  // which overtakes what a pause has taken in
    message = take(text_of(kind, micro_batch));
  } else {
    message = std::move(arrived_.front());
    arrived_.pop_front();
  }
  if (message.kind != kind || message.micro_batch != micro_batch.value_or(message.micro_batch)) {
    throw CommError("{} sent {} where {} are due: the stages have lost step", stage_text(),
                    text_of(message.kind, message.micro_batch), text_of(kind, micro_batch));
  }
  // Evaluation ends with a last message that none follows, so nothing waits for one there.
  if (arrived_.empty() && !is_aside(kind)) begin_receiving();
  return message;
}

void Link::receive_to_mark() {
  const at::NoGradGuard no_grad;
  for (;;) {
    Message message = take("all that is under way");
    if (message.kind == Message::Kind::mark) break;
    arrived_.push_back(std::move(message));
  }
  forget_what_is_sent();
}

Message Link::take(const std::string& what) {
  begin_receiving();
  const auto begin = Clock::now();
  const trace::Span span(options_.tracer, trace::Track::compute, "wait");
  bool has_come = true;
  try {
    has_come = worker_->wait_for(*job_, patience_);
  } catch (const CommError& error) {
    throw CommError("waiting for {} from {}: {}", what, stage_text(), error.what());
  }
  if (!has_come) give_up(what, begin);
  job_.reset();
  has_come_ = false;
  idle_seconds_ += seconds_since(begin);
  Message message = std::move(*incoming_);
  incoming_.reset();
  return message;
}

bool Link::is_ready() {
  if (!arrived_.empty()) return true;
  begin_receiving();
  return has_come_;
}

void Link::give_up(const std::string& what, Clock::time_point begin) {
  group_.abort();
  throw CommError("waiting for {} from {}: nothing came, {:.1f} s of {:.1f} s", what, stage_text(),
                  seconds_since(begin), std::chrono::duration<double>(patience_).count());
}

void Link::begin_receiving() {
  if (job_) return;
  job_ = worker_->post([this] {
    const Announcement announcement(has_come_, options_.bell);
    incoming_ = receive_now();
  });
}

// On the link's thread.
Message Link::receive_now() {
  const at::NoGradGuard no_grad;
  const at::Tensor header = at::empty({kHeaderSize}, at::kLong);
  group_.recv(header, peer_, {.tag = tag_from(0), .deadline = kPatience, .what = "a message"})
      .wait();
  Message message = message_of(header, options_.device, stage_text());
  const trace::Span span(options_.tracer, trace::Track::communication, describe(message.kind),
                         {.step = message.micro_batch, .bytes = message.num_bytes()});
  std::vector<comm::Work> works;
  for (const at::Tensor& tensor : message.tensors()) {
    if (!tensor.defined()) continue;
    works.push_back(group_.recv(
        as_row_major(tensor), peer_,
        {.tag = tag_from(1), .what = describe(message.kind), .step = message.micro_batch}));
  }
  for (comm::Work& work : works) work.wait();
  return message;
}

void Link::save(io::StateWriter& writer) const {
  writer.local(entry_ + ".num", static_cast<int64_t>(arrived_.size()));
  for (size_t i = 0; i < arrived_.size(); ++i) {
    const std::string name = fmt::format("{}.{}", entry_, i);
    writer.local(name + ".header", header_of(arrived_[i]));
    const std::vector<at::Tensor> tensors = arrived_[i].tensors();
    for (size_t k = 0; k < tensors.size(); ++k) {
      if (tensors[k].defined()) writer.local(fmt::format("{}.{}", name, k), tensors[k]);
    }
  }
}

// What peers may not send, files may not hold.
Message Link::saved_message(const at::Tensor& header, const std::string& entry) const {
  try {
    return message_of(header, options_.device, "a checkpoint");
  } catch (const CommError&) {
    throw DataError("entry \"{}.header\" of the checkpoint is no message of a stage", entry);
  }
}

void Link::load(io::StateReader& reader) {
  arrived_.clear();
  if (!reader.has_local()) return;
  const int64_t num = reader.local_int(entry_ + ".num");
  for (int64_t i = 0; i < num; ++i) {
    const std::string name = fmt::format("{}.{}", entry_, i);
    Message message = saved_message(reader.local(name + ".header"), name);
    std::vector<at::Tensor> tensors = message.tensors();
    for (size_t k = 0; k < tensors.size(); ++k) {
      if (!tensors[k].defined()) continue;
      const std::string entry = fmt::format("{}.{}", name, k);
      const at::Tensor saved = reader.local(entry);
      if (saved.sizes() != tensors[k].sizes()) {
        throw DataError("entry \"{}\" of the checkpoint is not of the size that its header says",
                        entry);
      }
      tensors[k].copy_(saved);
    }
    arrived_.push_back(std::move(message));
  }
}

}  // namespace outstep::engine
