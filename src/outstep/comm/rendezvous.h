#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "outstep/comm/launch.h"

namespace c10d {
class Store;
}

// How the ranks of a world find one another: rank 0 (or torchrun's agent) serves a key-value store
// at the master's address, and every rank leaves a card there. Nothing here waits longer than the
// deadline, even where c10d would.

namespace outstep::comm {

class Rendezvous {
 public:
  // Returns when every rank has come. address: at which the others reach this rank. Throws
  // CommError (port busy, master not reached, ranks that did not come) or ConfigError (another
  // world size, a rank given twice).
  Rendezvous(const World& world, const std::string& address, std::chrono::milliseconds deadline);
  ~Rendezvous();

  // How a person would name each rank: "rank 1 (10.77.0.2:4711)".
  const std::vector<std::string>& names() const { return names_; }

  // Returns when each of the ranks has called this with the same key. purpose completes "rank 1 did
  // not come to …".
  void meet(const std::string& key, const std::vector<int>& ranks, const std::string& purpose);

  // Hands a store in which all keys start with prefix to use, on a thread of its own. Throws a
  // CommError ("… within 30 s") when use has not returned by the deadline, and otherwise what use
  // threw. What use captures may outlive the call.
  void with_store(const std::string& prefix, const std::string& purpose,
                  std::function<void(c10d::Store&)> use);

 private:
  struct State;

  void open_store();
  void collect_cards(const std::string& address);

  const World world_;
  const std::chrono::milliseconds deadline_;
  std::shared_ptr<State> state_;
  std::vector<std::string> names_;
};

}  // namespace outstep::comm
