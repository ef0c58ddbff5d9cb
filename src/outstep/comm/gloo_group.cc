#include "outstep/comm/gloo_group.h"

#include <fmt/format.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "outstep/comm/complaint.h"
#include "outstep/comm/waiters.h"

namespace outstep::comm {
namespace {

using c10d::ProcessGroupGloo;
using Names = std::shared_ptr<const std::vector<std::string>>;

constexpr int kTripwireTag = 0x7fffffff;  // above all others
constexpr int kWatchTag = kTripwireTag - 1;
constexpr std::chrono::milliseconds kNow{1};  // c10d's shortest time-out; 0 means none
constexpr std::chrono::hours kForever{24 * 365};
constexpr size_t kLargeMessage = 32 << 10;  // bytes; what a socket does not take at once

// What Gloo's words for a failure say about the peer.
std::string event_of(const std::string& text) {
  const auto says = [&](const char* words) { return text.find(words) != std::string::npos; };
  if (says("Timed out")) return "did not answer";
  if (says("closed by peer") || says("reset by peer") || says("Broken pipe"))
    return "closed its connection";
  const size_t place_end = text.starts_with("[") ? text.find("] ") : std::string::npos;
  const size_t begin = place_end == std::string::npos ? 0 : place_end + 2;
  return fmt::format("failed ({})", text.substr(begin, text.find('\n', begin) - begin));
}

}  // namespace

struct GlooDevice::Handle {
  std::shared_ptr<::gloo::transport::Device> device;
};

// What the group and its transfers share; transfers may outlive the group.
//
// Gloo wakes those who wait for a peer that is gone, but for a message that has been sent or
// received by half, and for one of any size that the peer had not asked for. So a thread for each
// peer waits for its end, and ends the waits for what is sent to it, and for large messages from
// it.
struct GlooCore {
  c10::intrusive_ptr<ProcessGroupGloo> backend;  // guarded by mutex
  // A receive from each peer that nobody answers. One of a peer that is gone ends at once instead
  // of when its time is up, so one alone would not do.
  std::vector<c10::intrusive_ptr<c10d::Work>> tripwires;  // guarded by mutex
  std::vector<c10::intrusive_ptr<c10d::Work>> watches;  // by peer, null for most; guarded by mutex
  std::vector<bool> is_gone;                            // by peer; guarded by mutex
  std::map<c10d::Work*, int> watched;                   // transfers: their peer; guarded by mutex
  std::mutex mutex;
  Names names;
  int rank = 0;
  Departure departure;
  std::atomic<int> num_transfers{0};  // alive

  const std::string& self() const { return (*names)[static_cast<size_t>(rank)]; }

  // Ends every wait on the group, here and at the peers.
  void close(const std::string& reason) {
    if (!departure.set(reason)) return;
    std::vector<c10::intrusive_ptr<c10d::Work>> wires;
    {
      const std::lock_guard lock(mutex);
      wires.swap(tripwires);
    }
    for (const auto& wire : wires) {
      try {
        wire->wait(kNow);
      } catch (const std::exception&) {
        // That the first one times out is what closes all connections.
      }
    }
    const std::lock_guard lock(mutex);
    for (const auto& [transfer, peer] : watched) transfer->abort();
  }

  void begin_watched(c10d::Work& transfer, int peer) {
    const std::lock_guard lock(mutex);
    watched.emplace(&transfer, peer);
    if (is_gone[static_cast<size_t>(peer)] || departure.reason()) transfer.abort();
  }
  void end_watched(c10d::Work& transfer) {
    const std::lock_guard lock(mutex);
    watched.erase(&transfer);
  }

  // Blocks until the peer is gone, or stop_watching.
  void watch(int peer, c10d::Work& end_of_peer) {
    try {
      if (!end_of_peer.wait(kForever)) return;
    } catch (const std::exception&) {
      const std::lock_guard lock(mutex);
      is_gone[static_cast<size_t>(peer)] = true;
      for (const auto& [transfer, its_peer] : watched) {
        if (its_peer == peer) transfer->abort();
      }
    }
  }

  void stop_watching() {
    const std::lock_guard lock(mutex);
    for (const auto& watch : watches) {
      if (watch) watch->abort();
    }
  }

  bool has_lost(int peer) {
    const std::lock_guard lock(mutex);
    return is_gone[static_cast<size_t>(peer)];
  }

  void lay_tripwires() {
    const std::lock_guard lock(mutex);
    for (int peer = 0; peer < static_cast<int>(names->size()); ++peer) {
      std::vector<at::Tensor> target = {at::empty({1}, at::kByte)};
      if (peer != rank) tripwires.push_back(backend->recv(target, peer, kTripwireTag));
    }
  }
};

namespace {

class GlooTransfer : public Work::Transfer, public std::enable_shared_from_this<GlooTransfer> {
 public:
  GlooTransfer(std::shared_ptr<GlooCore> core, std::weak_ptr<Waiters> waiters,
               c10::intrusive_ptr<c10d::Work> work, Complaint complaint, std::string post_failure,
               bool is_watched)
      : core_(std::move(core)),
        waiters_(std::move(waiters)),
        work_(std::move(work)),
        complaint_(std::move(complaint)),
        post_failure_(std::move(post_failure)),
        is_watched_(is_watched && work_) {
    ++core_->num_transfers;
    if (is_watched_) core_->begin_watched(*work_, complaint_.peer);
  }
  ~GlooTransfer() override {
    if (work_ && is_watched_) core_->end_watched(*work_);
    --core_->num_transfers;
  }

  void wait() override {
    if (claim()) {
      finish();
    } else {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return is_over_; });  // whoever waits in our place has the deadline
    }
    if (error_) std::rethrow_exception(error_);
  }

  bool is_done() override {
    if (claim()) {
      // Gloo has no test of a single transfer, so a thread waits for it. Without threads the group
      // is gone, and no wait takes long.
      const auto waiters = waiters_.lock();
      if (!waiters || !waiters->run([self = shared_from_this()] { self->finish(); })) finish();
    }
    const std::lock_guard lock(mutex_);
    return is_over_;
  }

 private:
  // True for the one caller who is to call finish().
  bool claim() {
    const std::lock_guard lock(mutex_);
    return !std::exchange(is_claimed_, true);
  }

  void finish() {
    const auto begun = Clock::now();
    std::exception_ptr error;
    try {
      if (!post_failure_.empty()) throw std::runtime_error(post_failure_);
      await_work();
    } catch (const std::exception& failure) {
      error = explain(failure.what(), begun);
    }
    if (work_ && is_watched_) core_->end_watched(*work_);
    work_.reset();  // releases the tensor
    const std::lock_guard lock(mutex_);
    error_ = error;
    is_over_ = true;
    changed_.notify_all();
  }

  void await_work() {
    if (work_->wait(std::max(complaint_.deadline(), kNow))) return;
    try {
      // A wait that was ended may be for what had arrived already: then a second one succeeds.
      if (work_->wait(kNow)) return;
    } catch (const std::exception&) {
      // That nothing more comes is said below.
    }
    throw std::runtime_error(core_->has_lost(complaint_.peer) ? "closed by peer" : "aborted");
  }

  std::exception_ptr explain(const std::string& text, Clock::time_point begun) {
    // Gloo closes the group in the thread whose time is up before that thread can say so.
    const bool was_closed_here = text.find("Application timeout") != std::string::npos;
    const auto departure =
        core_->departure.wait_for_reason(std::chrono::milliseconds(was_closed_here ? 2000 : 0));
    const CommError error = complaint_.error(
        departure ? "had not answered when this rank " + *departure : event_of(text), begun);
    core_->close(fmt::format("gave up ({})", error.what()));
    return std::make_exception_ptr(error);
  }

  const std::shared_ptr<GlooCore> core_;
  const std::weak_ptr<Waiters> waiters_;
  c10::intrusive_ptr<c10d::Work> work_;  // null where posting failed already
  const Complaint complaint_;
  const std::string post_failure_;
  const bool is_watched_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_claimed_ = false;   // guarded by mutex_
  bool is_over_ = false;      // guarded by mutex_
  std::exception_ptr error_;  // guarded by mutex_, not written any more when is_over_
};

}  // namespace

GlooDevice::GlooDevice(const std::string& address) : handle_(std::make_shared<Handle>()) {
  try {
    handle_->device = ProcessGroupGloo::createDeviceForHostname(address);
  } catch (const std::exception& error) {
    throw CommError("cannot listen at {} ({}); name another network interface in comm.interface",
                    address, event_of(error.what()));
  }
}

GlooGroup::GlooGroup(Rendezvous& rendezvous, const GlooDevice& device, GlooPlace place)
    : Group(place.name, place.rank, static_cast<int>(place.ranks.size()), place.deadline),
      core_(std::make_shared<GlooCore>()),
      waiters_(std::make_shared<Waiters>()) {
  core_->rank = place.rank;
  core_->names = std::make_shared<const std::vector<std::string>>(std::move(place.names));
  if (size() == 1) return;  // nobody to connect to
  const std::string purpose = fmt::format("connect the group \"{}\"", place.name);
  rendezvous.meet(place.key, place.ranks, purpose);
  rendezvous.with_store("gloo/" + place.key, purpose,
                        [core = core_, handle = device.handle_, rank = rank(), size = size(),
                         deadline = place.deadline](c10d::Store& store) {
                          auto options = ProcessGroupGloo::Options::create(deadline);
                          options->devices = {handle->device};
                          options->threads = 1;  // for c10d's own collectives, which are not used
                          core->backend = c10::make_intrusive<ProcessGroupGloo>(
                              c10::intrusive_ptr<c10d::Store>::reclaim_copy(&store), rank, size,
                              options);
                        });
  core_->watches.resize(static_cast<size_t>(size()));
  core_->is_gone.resize(static_cast<size_t>(size()));
  core_->lay_tripwires();
}

GlooGroup::~GlooGroup() {
  if (core_->num_transfers > 0) core_->close("left the group");
  core_->stop_watching();
  waiters_.reset();
  const std::lock_guard lock(core_->mutex);
  core_->tripwires.clear();
  core_->watches.clear();
  core_->backend.reset();
}

void GlooGroup::abort() noexcept { core_->close("aborted the group"); }

std::string GlooGroup::describe(int peer) const {
  return (*core_->names)[static_cast<size_t>(peer)];
}

Work GlooGroup::do_send(const at::Tensor& tensor, int peer, const CallOptions& options) {
  return post(tensor, peer, /*is_send=*/true, options);
}

Work GlooGroup::do_recv(at::Tensor tensor, int peer, const CallOptions& options) {
  return post(std::move(tensor), peer, /*is_send=*/false, options);
}

Work GlooGroup::post(at::Tensor tensor, int peer, bool is_send, const CallOptions& options) {
  core_->departure.throw_if_set(core_->self());
  const bool is_watched = is_send || tensor.nbytes() >= kLargeMessage;
  if (is_watched) watch(peer);
  std::vector<at::Tensor> tensors = {std::move(tensor)};
  c10::intrusive_ptr<c10d::Work> work;
  std::string failure;
  try {
    const auto tag = static_cast<int>(options.tag);
    const std::lock_guard lock(core_->mutex);  // c10d counts its calls without one
    work = is_send ? core_->backend->send(tensors, peer, tag)
                   : core_->backend->recv(tensors, peer, tag);
  } catch (const std::exception& error) {
    failure = error.what();
  }
  return Work(std::make_shared<GlooTransfer>(
      core_, waiters_, std::move(work),
      Complaint{.names = core_->names, .peer = peer, .options = options}, std::move(failure),
      is_watched));
}

void GlooGroup::watch(int peer) {
  c10::intrusive_ptr<c10d::Work> watch;
  {
    const std::lock_guard lock(core_->mutex);
    auto& place = core_->watches[static_cast<size_t>(peer)];
    if (place) return;
    try {
      std::vector<at::Tensor> target = {at::empty({1}, at::kByte)};
      watch = place = core_->backend->recv(target, peer, kWatchTag);
    } catch (const std::exception&) {
      return;  // the peer is gone: posting says so too
    }
  }
  // Without a thread for it the deadline has to do.
  (void)waiters_->run([core = core_, peer, watch] { core->watch(peer, *watch); });
}

}  // namespace outstep::comm
