#include "outstep/comm/rendezvous.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <c10/util/Logging.h>
#include <numeric>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/comm/bounded.h"
#include "outstep/comm/complaint.h"
#include "outstep/comm/network.h"

namespace outstep::comm {
namespace {

using Store = c10::intrusive_ptr<c10d::Store>;

constexpr int kTorchWarnings = 1, kTorchFatal = 3;  // torch's levels of logging

// The part of a c10d message that says what happened: its first line.
std::string first_line(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

struct Card {
  int world_size = 0;
  std::string person;  // "10.77.0.2:4711"
  bool is_loopback = false;
};

std::string to_text(const Card& card) {
  return fmt::format("{} {} {}", card.world_size, card.is_loopback ? 1 : 0, card.person);
}

Card to_card(const std::string& text) {
  Card card;
  char person[512] = {};
  int loopback = 0;
  if (std::sscanf(text.c_str(), "%d %d %511s", &card.world_size, &loopback, person) != 3) {
    throw CommError("a rank's card at the meeting place reads \"{}\": another program is using it",
                    text);
  }
  card.is_loopback = loopback != 0;
  card.person = person;
  return card;
}

CommError did_not_come(const std::vector<int>& missing, const std::string& where,
                       const World& world, std::chrono::milliseconds deadline) {
  return CommError(
      "{} {} did not come{} within {} (world of {}, meeting at {}:{}); were all ranks started, "
      "with the same "
      "MASTER_ADDR and MASTER_PORT?",
      missing.size() == 1 ? "rank" : "ranks", fmt::join(missing, ", "), where,
      describe_deadline(deadline), world.world_size, world.master_addr, world.master_port);
}

// Waits until each rank's key is set and tells found of each as it comes; returns the ranks that
// did not by the deadline.
std::vector<int> wait_for_keys(c10d::Store& store, const std::string& prefix,
                               std::vector<int> ranks, std::chrono::milliseconds deadline,
                               const std::function<void(int)>& found) {
  // Asked again and again, the store says who has come while others are still missing; its own wait
  // does not.
  constexpr std::chrono::milliseconds kShortest{1}, kLongest{50};
  const auto end = Clock::now() + deadline;
  for (auto pause = kShortest;; pause = std::min(2 * pause, kLongest)) {
    std::erase_if(ranks, [&](int rank) {
      if (!store.check({prefix + std::to_string(rank)})) return false;
      found(rank);
      return true;
    });
    if (ranks.empty() || Clock::now() >= end) return ranks;
    std::this_thread::sleep_for(pause);
  }
}

// One rank at the meeting place: leaves its card, reads those of others, and makes sure that all
// are of one world.
class Meeting {
 public:
  Meeting(c10d::Store& store, const World& world, Card own)
      : store_(store), world_(world), own_(std::move(own)) {}

  void take_place() {
    const std::string key = "card/" + std::to_string(world_.rank);
    const std::string text = to_text(own_);
    const std::string there = store_.compareSet(key, "", text);
    if (there == text) return;
    throw ConfigError(
        "two processes were started as rank {}: {} and {}; each needs a rank of its own",
        world_.rank, to_card(there).person, own_.person);
  }

  // Returns the rank's name.
  std::string read_card(int rank) {
    const Card card = to_card(store_.get_to_str("card/" + std::to_string(rank)));
    present_.push_back(rank);
    if (card.world_size != world_.world_size) {
      leave_together();
      throw ConfigError(
          "rank {} ({}) was started with world size {}, but rank {} with {}; start all ranks with "
          "one "
          "command, or give all the same WORLD_SIZE",
          rank, card.person, card.world_size, world_.rank, world_.world_size);
    }
    if (card.is_loopback != own_.is_loopback) {
      leave_together();
      throw ConfigError(
          "rank {} would listen at {}, but rank {} at {}: they cannot reach each other; name the "
          "network "
          "interface in comm.interface",
          rank, card.person, world_.rank, own_.person);
    }
    return fmt::format("rank {} ({})", rank, card.person);
  }

 private:
  // The store goes when rank 0 does: it waits until the others have seen the same contradiction.
  void leave_together() {
    store_.set("left/" + std::to_string(world_.rank), std::string("seen"));
    if (world_.rank != 0) return;
    wait_for_keys(store_, "left/", present_, std::chrono::seconds(2), [](int) {});
  }

  c10d::Store& store_;
  const World& world_;
  const Card own_;
  std::vector<int> present_;
};

}  // namespace

// Shared with threads that may be left behind.
struct Rendezvous::State {
  Store store;  // keys start with "outstep/ATTEMPT/"
};

Rendezvous::Rendezvous(const World& world, const std::string& address,
                       std::chrono::milliseconds deadline)
    : world_(world), deadline_(deadline), state_(std::make_shared<State>()) {
  open_store();
  collect_cards(address);
}

Rendezvous::~Rendezvous() = default;

// c10d's blocking calls have time-outs, but not all of them: a master that is stopped, or a
// stranger's port that accepts and says nothing, would hold us for ever. So they are run bounded,
// here and in with_store.
void Rendezvous::open_store() {
  // c10d reports on stderr what our errors say better, stack traces included. Whoever wants to see
  // it sets TORCH_CPP_LOG_LEVEL=INFO.
  if (FLAGS_caffe2_log_level == kTorchWarnings) FLAGS_caffe2_log_level = kTorchFatal;
  const bool serves = world_.rank == 0 && !world_.agent_holds_store;
  const std::string place = fmt::format("{}:{}", world_.master_addr, world_.master_port);
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(world_.master_port);
  options.isServer = serves;
  options.waitWorkers = false;
  options.multiTenant = true;
  options.timeout = deadline_;
  const auto not_reached = [=, this](const std::string& reason) {
    return CommError(
        "{} was not reached at {} within {}{}; is it running, and were all ranks given the same "
        "MASTER_ADDR and "
        "MASTER_PORT?",
        world_.agent_holds_store ? "torchrun's agent" : "rank 0", place,
        describe_deadline(deadline_), reason);
  };
  try {
    run_bounded(
        deadline_ + std::chrono::seconds(1),
        [state = state_, options, host = world_.master_addr, attempt = world_.attempt] {
          auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
          state->store =
              c10::make_intrusive<c10d::PrefixStore>(fmt::format("outstep/{}", attempt), store);
        },
        [&] { return not_reached(""); });
  } catch (const CommError&) {
    throw;
  } catch (const std::exception& error) {
    const std::string text = error.what();
    const bool is_busy =
        text.find("in use") != std::string::npos || text.find("EADDRINUSE") != std::string::npos;
    if (serves && is_busy) {
      throw CommError(
          "port {} of {} is in use by another program, so rank 0 cannot listen there; set "
          "MASTER_PORT (torchrun: "
          "--master-port) to a free port, the same on all ranks",
          world_.master_port, world_.master_addr);
    }
    throw not_reached(fmt::format(" ({})", first_line(error)));
  }
}

void Rendezvous::with_store(const std::string& prefix, const std::string& purpose,
                            std::function<void(c10d::Store&)> use) {
  const std::string place = fmt::format("{}:{}", world_.master_addr, world_.master_port);
  try {
    run_bounded(
        deadline_ + std::chrono::seconds(1),
        [state = state_, prefix, use = std::move(use)] {
          const auto store = c10::make_intrusive<c10d::PrefixStore>(prefix, state->store);
          use(*store);
        },
        [&] {
          return CommError("the meeting place at {} did not answer within {} while {}", place,
                           describe_deadline(deadline_), purpose);
        });
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw CommError("the meeting place at {} failed while {} ({}); rank 0 may have left", place,
                    purpose, first_line(error));
  }
}

void Rendezvous::collect_cards(const std::string& address) {
  const Card own{.world_size = world_.world_size,
                 .person = fmt::format("{}:{}", address, getpid()),
                 .is_loopback = is_loopback(address)};
  auto names = std::make_shared<std::vector<std::string>>(static_cast<size_t>(world_.world_size));
  with_store("world", "waiting for the other ranks",
             [=, world = world_, deadline = deadline_](c10d::Store& store) {
               Meeting meeting(store, world, own);
               meeting.take_place();
               std::vector<int> everybody(static_cast<size_t>(world.world_size));
               std::iota(everybody.begin(), everybody.end(), 0);
               const std::vector<int> missing =
                   wait_for_keys(store, "card/", everybody, deadline, [&](int rank) {
                     (*names)[static_cast<size_t>(rank)] = meeting.read_card(rank);
                   });
               if (!missing.empty()) throw did_not_come(missing, "", world, deadline);
             });
  names_ = std::move(*names);
}

void Rendezvous::meet(const std::string& key, const std::vector<int>& ranks,
                      const std::string& purpose) {
  with_store("meet/" + key, purpose, [=, world = world_, deadline = deadline_](c10d::Store& store) {
    store.set(std::to_string(world.rank), std::string("here"));
    const std::vector<int> missing = wait_for_keys(store, "", ranks, deadline, [](int) {});
    if (!missing.empty()) throw did_not_come(missing, " to " + purpose, world, deadline);
  });
}

}  // namespace outstep::comm
