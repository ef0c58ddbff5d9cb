#ifdef OUTSTEP_MPI

#include "outstep/comm/mpi_group.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <map>
#include <thread>

#include "outstep/base/errors.h"

namespace outstep::comm {
namespace {

constexpr int64_t kMaxMessage = 1 << 30;  // bytes; MPI counts in int
constexpr size_t kObituarySize = 512;

// Pauses that grow: MPI makes progress only inside its calls, so the first ones follow one another
// closely.
class Pause {
 public:
  void operator()() {
    if (num_pauses_++ < kYields) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(num_pauses_ < kShortPauses ? 20 : 100));
    }
  }

 private:
  static constexpr int kYields = 50, kShortPauses = 500;
  int num_pauses_ = 0;
};

// Of MPI's tags, which begin at 0.
int highest_tag() {
  void* value = nullptr;
  int is_set = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &value, &is_set);
  const int highest = is_set ? *static_cast<int*>(value) : 32767;
  constexpr int kNeeded = 5 * kReservedTags;  // a user's, and those of four kinds of collectives
  if (highest <= kNeeded) {
    MPI_Finalize();
    throw CommError("this MPI has tags up to {}, {} are needed; use comm.backend = \"gloo\"",
                    highest, kNeeded);
  }
  return highest;
}

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw CommError("{}: {}", call, std::string(text.data(), static_cast<size_t>(length)));
}

MpiRuntime::MpiRuntime() {
  int was_ended = 0;
  MPI_Finalized(&was_ended);
  check(was_ended == 0, "MPI is started once a process");
  int level = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level), "MPI_Init_thread");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  if (level < MPI_THREAD_SERIALIZED) {
    MPI_Finalize();
    throw CommError(
        "this MPI cannot be called from several threads (MPI_THREAD_SERIALIZED); use comm.backend "
        "= \"gloo\"");
  }
  obituary_tag_ = highest_tag();
}

MpiRuntime::Lock MpiRuntime::enter() {
  constexpr std::chrono::milliseconds kLook{50};
  Lock lock(mutex_, std::defer_lock);
  while (!is_stuck_ && !lock.try_lock_for(kLook)) {
  }
  return lock;
}

MpiRuntime::~MpiRuntime() {
  constexpr std::chrono::seconds kPatience{2};
  const auto end = Clock::now() + kPatience;
  Pause pause;
  while (!has_failed_ && !abandoned_are_over()) {
    if (Clock::now() > end) return;
    pause();
  }
  if (!has_failed_) MPI_Finalize();
}

void MpiRuntime::abandon(MpiMessages messages) {
  for (MPI_Request& request : messages.requests) {
    if (!messages.is_send && request != MPI_REQUEST_NULL) MPI_Cancel(&request);
  }
  abandoned_.push_back(std::move(messages));
}

bool MpiRuntime::abandoned_are_over() {
  const Lock lock = enter();
  if (!lock) return false;
  for (MpiMessages& messages : abandoned_) {
    int are_done = 0;
    MPI_Testall(static_cast<int>(messages.requests.size()), messages.requests.data(), &are_done,
                MPI_STATUSES_IGNORE);
    if (are_done == 0) return false;
  }
  return true;
}

// What the group and its transfers share; transfers may outlive the group. All but the constants is
// guarded by the runtime's lock.
struct MpiCore {
  std::shared_ptr<MpiRuntime> runtime;
  MPI_Comm communicator = MPI_COMM_NULL;
  std::shared_ptr<const std::vector<std::string>> names;
  int rank = 0;
  Departure departure;
  // A rank that takes no part any more says why to all others.
  at::Tensor obituary;  // where the next one arrives
  MPI_Request obituary_request = MPI_REQUEST_NULL;
  std::map<int, std::string> departed;

  void expect_obituary() {
    check_mpi(MPI_Irecv(obituary.mutable_data_ptr(), kObituarySize, MPI_BYTE, MPI_ANY_SOURCE,
                        runtime->obituary_tag(), communicator, &obituary_request),
              "MPI_Irecv");
  }

  void collect_obituaries() {
    int has_come = 1;
    MPI_Status status;
    while (obituary_request != MPI_REQUEST_NULL &&
           MPI_Test(&obituary_request, &has_come, &status) == MPI_SUCCESS && has_come != 0) {
      departed.emplace(status.MPI_SOURCE, static_cast<const char*>(obituary.const_data_ptr()));
      expect_obituary();
    }
  }

  void send_obituary(const std::string& reason) {
    const at::Tensor text = at::zeros({static_cast<int64_t>(kObituarySize)}, at::kByte);
    std::strncpy(static_cast<char*>(text.mutable_data_ptr()), reason.c_str(), kObituarySize - 1);
    for (int peer = 0; peer < static_cast<int>(names->size()); ++peer) {
      if (peer == rank) continue;
      MpiMessages messages{.tensor = text, .is_send = true, .requests = {MPI_REQUEST_NULL}};
      MPI_Isend(text.const_data_ptr(), kObituarySize, MPI_BYTE, peer, runtime->obituary_tag(),
                communicator, messages.requests.data());
      runtime->abandon(std::move(messages));
    }
  }

  // Ends every wait on the group, here and at the peers.
  void close(const std::string& reason) {
    if (!departure.set(reason)) return;
    runtime->mark_failed();
    if (const auto lock = runtime->enter()) send_obituary(reason);
  }
};

namespace {

void start(MpiMessages& messages, const MpiCore& core, int peer, Tag user_tag) try {
  const at::Tensor& tensor = messages.tensor;
  const bool is_send = messages.is_send;
  const auto num_bytes = static_cast<int64_t>(tensor.nbytes());
  auto* bytes =
      static_cast<char*>(const_cast<void*>(tensor.const_data_ptr()));  // only read where it is sent
  const auto tag = static_cast<int>(user_tag);
  for (int64_t begin = 0; begin < num_bytes; begin += kMaxMessage) {
    const auto count = static_cast<int>(std::min(kMaxMessage, num_bytes - begin));
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(
        is_send ? MPI_Isend(bytes + begin, count, MPI_BYTE, peer, tag, core.communicator, &request)
                : MPI_Irecv(bytes + begin, count, MPI_BYTE, peer, tag, core.communicator, &request),
        is_send ? "MPI_Isend" : "MPI_Irecv");
    messages.requests.push_back(request);
  }
} catch (const CommError& error) {
  core.runtime->abandon(std::move(messages));  // those that have begun
  throw CommError("{} could not be reached ({})", (*core.names)[static_cast<size_t>(peer)],
                  error.what());
}

class MpiTransfer : public Work::Transfer {
 public:
  MpiTransfer(std::shared_ptr<MpiCore> core, MpiMessages messages, Complaint complaint)
      : core_(std::move(core)), complaint_(std::move(complaint)), messages_(std::move(messages)) {}

  ~MpiTransfer() override {
    if (!is_over_) abandon();
  }

  void wait() override {
    Pause pause;
    while (!is_done()) pause();
    if (error_) std::rethrow_exception(error_);
  }

  // Lets MPI work, too.
  bool is_done() override {
    const std::lock_guard lock(mutex_);
    if (is_over_) return true;
    if (!waiting_since_) waiting_since_ = Clock::now();
    std::string event = look();
    if (is_over_) return true;
    if (event.empty() && Clock::now() - *waiting_since_ >= complaint_.deadline())
      event = "did not answer";
    if (!event.empty()) fail(event);
    return is_over_;
  }

 private:
  // Returns what went wrong, or "".
  std::string look() {
    const auto lock = core_->runtime->enter();
    if (!lock) return "had not answered when MPI itself came to a halt";
    core_->collect_obituaries();
    const std::string event = test();  // after it: what a rank sent before it gave up still counts
    return is_over_ || !event.empty() ? event : departure();
  }

  void abandon() {
    if (const auto lock = core_->runtime->enter()) {
      core_->runtime->abandon(std::move(messages_));
    } else {
      new MpiMessages(std::move(messages_));  // for ever: MPI may still use the tensor
    }
  }

  // With the runtime's lock, as the next one. Returns what went wrong, or "".
  std::string test() {
    std::vector<MPI_Status> statuses(messages_.requests.size());
    int are_done = 0;
    const int code = MPI_Testall(static_cast<int>(messages_.requests.size()),
                                 messages_.requests.data(), &are_done, statuses.data());
    if (code == MPI_ERR_TRUNCATE ||
        (code == MPI_ERR_IN_STATUS && statuses[0].MPI_ERROR == MPI_ERR_TRUNCATE)) {
      return fmt::format("sent more than the {} bytes that were expected",
                         messages_.tensor.nbytes());
    }
    if (code != MPI_SUCCESS) return fmt::format("failed (MPI error {})", code);
    if (are_done == 0) return "";
    int64_t num_bytes = 0;
    for (const MPI_Status& status : statuses) {
      int count = 0;
      MPI_Get_count(&status, MPI_BYTE, &count);
      num_bytes += count;
    }
    const auto expected = static_cast<int64_t>(messages_.tensor.nbytes());
    if (!messages_.is_send && num_bytes != expected) {
      return fmt::format("sent {} bytes where {} were expected", num_bytes, expected);
    }
    is_over_ = true;
    messages_ = {};
    return "";
  }

  // What a rank that takes no part any more has said, this one before the peer.
  std::string departure() const {
    if (const auto reason = core_->departure.reason()) {
      return "had not answered when this rank " + *reason;
    }
    const auto found = core_->departed.find(complaint_.peer);
    return found == core_->departed.end() ? "" : found->second;
  }

  void fail(const std::string& event) {
    const CommError error = complaint_.error(event, *waiting_since_);
    error_ = std::make_exception_ptr(error);
    core_->close(fmt::format("gave up ({})", error.what()));
    is_over_ = true;
    abandon();
  }

  const std::shared_ptr<MpiCore> core_;
  const Complaint complaint_;
  std::mutex mutex_;
  MpiMessages messages_;                            // guarded by mutex_ and the runtime's lock
  std::optional<Clock::time_point> waiting_since_;  // guarded by mutex_
  bool is_over_ = false;                            // guarded by mutex_
  std::exception_ptr error_;  // guarded by mutex_, not written any more when is_over_
};

}  // namespace

MpiGroup::MpiGroup(std::string name, std::shared_ptr<MpiRuntime> runtime, MPI_Comm communicator,
                   std::vector<std::string> names, int rank, std::chrono::milliseconds deadline)
    : Group(std::move(name), rank, static_cast<int>(names.size()), deadline),
      core_(std::make_shared<MpiCore>()) {
  core_->runtime = std::move(runtime);
  core_->communicator = communicator;
  core_->names = std::make_shared<const std::vector<std::string>>(std::move(names));
  core_->rank = rank;
  core_->obituary = at::empty({static_cast<int64_t>(kObituarySize)}, at::kByte);
  const auto lock = core_->runtime->enter();
  if (!lock) throw CommError("the group \"{}\" cannot be made: MPI came to a halt", this->name());
  MPI_Comm_set_errhandler(communicator, MPI_ERRORS_RETURN);
  core_->expect_obituary();
}

MpiGroup::~MpiGroup() {
  const bool is_first_reason = core_->departure.set("left the group");
  const auto lock = core_->runtime->enter();
  if (!lock) {
    new at::Tensor(core_->obituary);  // for ever, as MPI may still use it
    return;
  }
  if (is_first_reason) core_->send_obituary("left the group");
  // The communicator is left to MPI_Finalize: freeing it would have to wait for all of its ranks.
  core_->runtime->abandon(
      {.tensor = core_->obituary, .is_send = false, .requests = {core_->obituary_request}});
  core_->obituary_request = MPI_REQUEST_NULL;
}

void MpiGroup::abort() noexcept { core_->close("aborted the group"); }

std::string MpiGroup::describe(int peer) const {
  return (*core_->names)[static_cast<size_t>(peer)];
}

Work MpiGroup::do_send(const at::Tensor& tensor, int peer, const CallOptions& options) {
  return post(tensor, peer, /*is_send=*/true, options);
}

Work MpiGroup::do_recv(at::Tensor tensor, int peer, const CallOptions& options) {
  return post(tensor, peer, /*is_send=*/false, options);
}

Work MpiGroup::post(const at::Tensor& tensor, int peer, bool is_send, const CallOptions& options) {
  core_->departure.throw_if_set((*core_->names)[static_cast<size_t>(rank())]);
  MpiMessages messages{.tensor = tensor, .is_send = is_send, .requests = {}};
  if (const auto lock = core_->runtime->enter()) {
    start(messages, *core_, peer, options.tag);
  } else {
    throw CommError("{} can send and receive no more: MPI came to a halt",
                    (*core_->names)[static_cast<size_t>(rank())]);
  }
  return Work(std::make_shared<MpiTransfer>(
      core_, std::move(messages),
      Complaint{.names = core_->names, .peer = peer, .options = options}));
}

}  // namespace outstep::comm

#endif  // OUTSTEP_MPI
