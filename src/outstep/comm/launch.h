#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// Which rank of which world this process is: the only place that reads the environment.
//
// Sources, in order: torchrun's variables (RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT;
// `outstep launch` gives its own children the same), Open MPI's (OMPI_COMM_WORLD_*), Slurm's
// (SLURM_PROCID SLURM_NTASKS SLURM_LOCALID). Two sources that disagree about rank or world size are
// a ConfigError naming both.
//
// Where mpirun and srun do not say where rank 0 listens, MASTER_ADDR and MASTER_PORT do; without
// these, the address is 127.0.0.1 for one machine or Slurm's first host, and the port follows from
// the job's number.

namespace outstep::comm {

struct World {
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;
  int local_size = 1;  // ranks on this machine, as far as the launcher tells; else world_size
  std::string master_addr = "127.0.0.1";
  int master_port = 0;
  bool agent_holds_store = false;  // torchrun's agent serves the TCPStore; every rank is a client
  int attempt = 0;  // how often torchrun has restarted the world: its store outlives a world
  std::string source = "alone";  // "torchrun", "mpirun", "srun", "outstep", "alone"
};

// Reads a variable; the default reads the process's environment. A parameter so that tests need no
// environment.
using Lookup = std::function<std::optional<std::string>(const std::string&)>;
std::optional<std::string> environment_variable(const std::string& name);

// Throws ConfigError for values that are no numbers, out of range, incomplete or contradictory.
World world_from_environment(const Lookup& lookup = environment_variable);

// The ranks of a world with more ranks than its launcher has started processes: each process hosts
// a block of them, as even as can be.
struct HostedRanks {
  int first_rank = 0;
  int num_ranks = 1;
  int first_local_rank = 0;  // among all that are hosted on this machine
  int local_size = 1;
};
// process: one of at most world_size of them; those of a machine are taken to be numbered in a row.
HostedRanks hosted_ranks(const World& process, int world_size);
// Whether a variable tells which process of Open MPI's or Slurm's this is: what a process must not
// hand on to the ranks that it hosts.
bool is_place_of_process(std::string_view name);

// The first host of a Slurm node list: "node01" of "node[01-04,07],gpu3". Throws ConfigError for
// what is none.
std::string first_slurm_host(const std::string& node_list);

}  // namespace outstep::comm
