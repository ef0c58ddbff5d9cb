#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "outstep/comm/flight.h"
#include "outstep/comm/group.h"
#include "outstep/comm/launch.h"

// Makes the groups of one world over one backend.
//
//   auto fabric = comm::connect(world, {.backend = "gloo"});
//   auto replicas = fabric->new_group("replica", mesh.replica_peers(world.rank));
//
// fabric->flights()->dump_on_error(run_folder / "flight-0.json") says where to write what went
// before an error.
//
// new_group is called by exactly the ranks listed, in the same order of calls on each. A fabric
// outlives its groups.

namespace outstep::comm {

struct FabricOptions {
  std::string backend = "gloo";  // gloo | mpi | nccl
  std::chrono::milliseconds deadline{30'000};
  bool record_flights = true;  // wrap every group in Recorded (comm/flight.h)
  // Wrap every group in Throttled: "200mbit" or "200mbit,5ms". Empty: as fast as the link is.
  std::string link = "";
  std::string interface = "";  // network interface for Gloo; empty: the one that reaches the master
};

class Fabric {
 public:
  virtual ~Fabric() = default;
  // Ranks are world ranks; the order gives the ranks in the group.
  virtual std::unique_ptr<Group> new_group(const std::string& name,
                                           const std::vector<int>& ranks) = 0;
  virtual const World& world() const = 0;
  // What this rank's groups record; null where flights are not recorded. Belongs to the fabric.
  virtual FlightRecorder* flights() { return nullptr; }
};

// Connects to the other ranks of the world; world_size 1 needs no network. Throws ConfigError
// (unknown backend, a backend this build lacks) or CommError (port busy, master not reached or a
// peer missing within the deadline). With peers, the process ignores SIGPIPE from then on, unless
// it handles it: a connection that breaks is an error here, not an end.
std::unique_ptr<Fabric> connect(const World& world, const FabricOptions& options);

// Ranks as threads of this process: fabric r belongs to thread r. For tests and --local;
// deterministic. Throws ConfigError for options that only processes have (backend, interface).
std::vector<std::unique_ptr<Fabric>> local_fabrics(int world_size,
                                                   const FabricOptions& options = {});

}  // namespace outstep::comm
