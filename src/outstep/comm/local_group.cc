#include "outstep/comm/local_group.h"

#include <fmt/format.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "outstep/comm/complaint.h"
#include "outstep/comm/sum.h"

namespace outstep::comm {
namespace {

// Half of a message: a send or a receive. All but the tensor's bytes is guarded by the hub's mutex.
struct Half {
  at::Tensor tensor;
  int owner = 0;
  Complaint complaint;
  bool is_matched = false;  // the other half is there; a copy may be under way
  bool is_done = false;
  std::string failure;  // what happened instead; empty: nothing
  std::optional<Clock::time_point> waiting_since;
};
using HalfPtr = std::shared_ptr<Half>;

// Messages with the same address are matched in the order in which they were posted.
using Address = std::tuple<int, int, Tag>;  // from, to, tag

}  // namespace

class LocalHub : public std::enable_shared_from_this<LocalHub> {
 public:
  explicit LocalHub(std::vector<std::string> names)
      : names_(std::make_shared<const std::vector<std::string>>(std::move(names))),
        departures_(names_->size()) {}

  Work post(const at::Tensor& tensor, int rank, int peer, bool is_send, const CallOptions& options);
  void wait(Half& half);
  bool is_done(Half& half);
  // From now on the rank takes no part; reason completes the sentence "rank 2 …".
  void depart(int rank, const std::string& reason);
  const std::string& name_of(int rank) const { return (*names_)[static_cast<size_t>(rank)]; }
  int size() const { return static_cast<int>(names_->size()); }

 private:
  using Queues = std::map<Address, std::deque<HalfPtr>>;

  HalfPtr take_first(Queues& queues, const Address& address);
  void deliver(const HalfPtr& from, const HalfPtr& to, std::unique_lock<std::mutex>& lock);
  void depart_locked(int rank, const std::string& reason);
  void fail_halves(Queues& queues, int rank, const std::string& reason);
  void throw_if_failed(const Half& half);

  const std::shared_ptr<const std::vector<std::string>> names_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Queues sends_;     // guarded by mutex_; those without their other half
  Queues receives_;  // guarded by mutex_; likewise
  std::vector<std::string>
      departures_;  // guarded by mutex_; by rank: why it takes no part, or empty
};

namespace {

class LocalTransfer : public Work::Transfer {
 public:
  LocalTransfer(std::shared_ptr<LocalHub> hub, HalfPtr half)
      : hub_(std::move(hub)), half_(std::move(half)) {}
  void wait() override { hub_->wait(*half_); }
  bool is_done() override { return hub_->is_done(*half_); }

 private:
  std::shared_ptr<LocalHub> hub_;
  HalfPtr half_;
};

}  // namespace

Work LocalHub::post(const at::Tensor& tensor, int rank, int peer, bool is_send,
                    const CallOptions& options) {
  auto half = std::make_shared<Half>();
  half->tensor = tensor;
  half->owner = rank;
  half->complaint = {.names = names_, .peer = peer, .options = options};
  const Address address =
      is_send ? Address{rank, peer, options.tag} : Address{peer, rank, options.tag};

  std::unique_lock lock(mutex_);
  const std::string& own_departure = departures_[static_cast<size_t>(rank)];
  if (!own_departure.empty()) {
    throw CommError("this group is of no use any more: {} {}", name_of(rank), own_departure);
  }
  half->failure = departures_[static_cast<size_t>(peer)];
  if (half->failure.empty()) {
    if (HalfPtr other = take_first(is_send ? receives_ : sends_, address)) {
      is_send ? deliver(half, other, lock) : deliver(other, half, lock);
    } else {
      (is_send ? sends_ : receives_)[address].push_back(half);
    }
  }
  return Work(std::make_shared<LocalTransfer>(shared_from_this(), std::move(half)));
}

HalfPtr LocalHub::take_first(Queues& queues, const Address& address) {
  const auto found = queues.find(address);
  if (found == queues.end()) return nullptr;
  HalfPtr first = std::move(found->second.front());
  found->second.pop_front();
  if (found->second.empty()) queues.erase(found);
  return first;
}

void LocalHub::deliver(const HalfPtr& from, const HalfPtr& to, std::unique_lock<std::mutex>& lock) {
  const size_t sent = from->tensor.nbytes();
  const size_t expected = to->tensor.nbytes();
  if (sent != expected) {
    to->failure = fmt::format("sent {} bytes where {} were expected", sent, expected);
    from->failure = fmt::format("expected {} bytes where {} were sent", expected, sent);
  } else {
    from->is_matched = to->is_matched = true;
    lock.unlock();
    copy_bytes(to->tensor, from->tensor);
    lock.lock();
    from->is_done = to->is_done = true;
  }
  changed_.notify_all();
}

void LocalHub::throw_if_failed(const Half& half) {
  if (half.failure.empty()) return;
  const CommError error =
      half.complaint.error(half.failure, half.waiting_since.value_or(Clock::now()));
  depart_locked(half.owner, fmt::format("gave up ({})", error.what()));
  throw error;
}

void LocalHub::wait(Half& half) {
  std::unique_lock lock(mutex_);
  if (!half.waiting_since) half.waiting_since = Clock::now();
  const auto ended = [&] { return half.is_done || !half.failure.empty(); };
  const bool in_time =
      changed_.wait_until(lock, *half.waiting_since + half.complaint.deadline(), ended);
  if (!in_time) {
    if (half.is_matched) {
      changed_.wait(lock, ended);  // a copy is under way: it ends by itself
    } else {
      half.failure = "did not answer";
    }
  }
  throw_if_failed(half);
}

bool LocalHub::is_done(Half& half) {
  const std::lock_guard lock(mutex_);
  if (!half.waiting_since) half.waiting_since = Clock::now();
  if (half.is_done || !half.failure.empty()) return true;
  if (half.is_matched || Clock::now() < *half.waiting_since + half.complaint.deadline())
    return false;
  half.failure = "did not answer";
  return true;
}

void LocalHub::depart(int rank, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  depart_locked(rank, reason);
}

void LocalHub::depart_locked(int rank, const std::string& reason) {
  std::string& departure = departures_[static_cast<size_t>(rank)];
  if (!departure.empty()) return;  // the first reason counts
  departure = reason;
  fail_halves(sends_, rank, reason);
  fail_halves(receives_, rank, reason);
  changed_.notify_all();
}

void LocalHub::fail_halves(Queues& queues, int rank, const std::string& reason) {
  std::erase_if(queues, [&](auto& entry) {
    const auto& [from, to, tag] = entry.first;
    if (from != rank && to != rank) return false;
    for (const HalfPtr& half : entry.second) {
      half->failure = half->owner == rank ? "had not answered when this rank " + reason : reason;
    }
    return true;
  });
}

LocalGroup::LocalGroup(std::string name, int rank, std::shared_ptr<LocalHub> hub,
                       std::chrono::milliseconds deadline)
    : Group(std::move(name), rank, hub->size(), deadline), hub_(std::move(hub)) {}

LocalGroup::~LocalGroup() { hub_->depart(rank(), "left the group"); }

void LocalGroup::abort() noexcept { hub_->depart(rank(), "aborted the group"); }

std::string LocalGroup::describe(int peer) const { return hub_->name_of(peer); }

Work LocalGroup::do_send(const at::Tensor& tensor, int peer, const CallOptions& options) {
  return hub_->post(tensor, rank(), peer, /*is_send=*/true, options);
}

Work LocalGroup::do_recv(at::Tensor tensor, int peer, const CallOptions& options) {
  return hub_->post(tensor, rank(), peer, /*is_send=*/false, options);
}

std::shared_ptr<LocalHub> make_local_hub(std::vector<std::string> names) {
  return std::make_shared<LocalHub>(std::move(names));
}

std::vector<std::unique_ptr<Group>> local_groups(const std::string& name, int size,
                                                 std::chrono::milliseconds deadline) {
  std::vector<std::string> names;
  for (int rank = 0; rank < size; ++rank) names.push_back(fmt::format("rank {} (thread)", rank));
  const std::shared_ptr<LocalHub> hub = make_local_hub(std::move(names));
  std::vector<std::unique_ptr<Group>> groups;
  for (int rank = 0; rank < size; ++rank) {
    groups.push_back(std::make_unique<LocalGroup>(name, rank, hub, deadline));
  }
  return groups;
}

void run_local_ranks(int size, const std::function<void(Group&)>& body,
                     std::chrono::milliseconds deadline) {
  std::vector<std::unique_ptr<Group>> groups = local_groups("local", size, deadline);
  std::mutex mutex;
  std::exception_ptr first_error;  // guarded by mutex
  {
    std::vector<std::jthread> threads;
    for (std::unique_ptr<Group>& group : groups) {
      threads.emplace_back([&] {
        try {
          body(*group);
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (!first_error) first_error = std::current_exception();
          group.reset();
        }
      });
    }
  }
  if (first_error) std::rethrow_exception(first_error);
}

}  // namespace outstep::comm
