#include "outstep/comm/launch.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>

#include "outstep/base/errors.h"

namespace outstep::comm {
namespace {

constexpr int kFirstPort =
    20000;  // below the range from which systems take ports for outgoing connections
constexpr int kNumPorts = 12000;

// One launcher's view, with the variables it came from.
struct Claim {
  World world;
  std::string rank_name;
  std::string size_name;
};

int parse_integer(const std::string& name, const std::string& text, int low, int high) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size() && value >= low && value <= high)
    return value;
  throw ConfigError("environment variable {} is \"{}\"; it must be a whole number from {} to {}",
                    name, text, low, high);
}

std::optional<int> read_integer(const Lookup& lookup, const std::string& name, int low, int high) {
  const std::optional<std::string> text = lookup(name);
  if (!text) return std::nullopt;
  return parse_integer(name, *text, low, high);
}

// All of a launcher's variables, or an error naming those that are missing.
void require_all(const Lookup& lookup, const std::string& launcher,
                 const std::vector<std::string>& names) {
  std::string present, missing;
  for (const std::string& name : names) {
    std::string& list = lookup(name) ? present : missing;
    list += (list.empty() ? "" : ", ") + name;
  }
  if (missing.empty()) return;
  const bool is_one = missing.find(',') == std::string::npos;
  throw ConfigError(
      "environment variables {} are set as {} does, but {} {} not; set all of {}, or none", present,
      launcher, missing, is_one ? "is" : "are", fmt::join(names, ", "));
}

void read_place(const Lookup& lookup, Claim& claim, const std::string& local_rank_name) {
  constexpr int kMaxRanks = 1 << 20;
  World& world = claim.world;
  world.world_size = *read_integer(lookup, claim.size_name, 1, kMaxRanks);
  world.rank = *read_integer(lookup, claim.rank_name, 0, kMaxRanks - 1);
  if (world.rank >= world.world_size) {
    throw ConfigError("environment variable {} is {}, but {} is {}: ranks are counted from 0",
                      claim.rank_name, world.rank, claim.size_name, world.world_size);
  }
  world.local_rank = *read_integer(lookup, local_rank_name, 0, world.world_size - 1);
  world.local_size = world.world_size;
}

std::optional<Claim> claim_of_torchrun(const Lookup& lookup) {
  if (!lookup("RANK") && !lookup("WORLD_SIZE")) return std::nullopt;
  require_all(lookup, "torchrun",
              {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"});
  Claim claim{.world = {}, .rank_name = "RANK", .size_name = "WORLD_SIZE"};
  read_place(lookup, claim, "LOCAL_RANK");
  World& world = claim.world;
  world.master_addr = *lookup("MASTER_ADDR");
  if (world.master_addr.empty())
    throw ConfigError("environment variable MASTER_ADDR is empty; it must name a host");
  const int lowest_port = world.world_size > 1 ? 1 : 0;  // a world of one connects to nobody
  world.master_port = *read_integer(lookup, "MASTER_PORT", lowest_port, 65535);
  if (const auto size = read_integer(lookup, "LOCAL_WORLD_SIZE", 1, world.world_size))
    world.local_size = *size;
  world.attempt = read_integer(lookup, "TORCHELASTIC_RESTART_COUNT", 0, 1 << 30).value_or(0);
  const std::string agent = lookup("TORCHELASTIC_USE_AGENT_STORE").value_or("False");
  world.agent_holds_store = agent == "True" || agent == "true" || agent == "1";
  world.source = lookup("OUTSTEP_LAUNCH") ? "outstep" : "torchrun";
  return claim;
}

int port_for_job(const std::string& job) {
  uint32_t hash = 2166136261u;  // FNV-1a: the same on every rank
  for (const char c : job) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  return kFirstPort + static_cast<int>(hash % kNumPorts);
}

// MASTER_ADDR and MASTER_PORT where they are set, else what the launcher lets us conclude; "" where
// it does not.
void read_master(const Lookup& lookup, World& world, const std::string& host,
                 const std::string& job) {
  const std::string address = lookup("MASTER_ADDR").value_or(host);
  const std::optional<int> port = read_integer(lookup, "MASTER_PORT", 1, 65535);
  if (world.world_size > 1 && (address.empty() || (!port && job.empty()))) {
    throw ConfigError(
        "{} does not say where rank 0 listens; set MASTER_ADDR to its host and MASTER_PORT to a "
        "free "
        "port there (mpirun: -x MASTER_ADDR=… -x MASTER_PORT=…)",
        world.source);
  }
  if (!address.empty()) world.master_addr = address;
  world.master_port = port ? *port : port_for_job(job);
}

std::optional<Claim> claim_of_open_mpi(const Lookup& lookup) {
  if (!lookup("OMPI_COMM_WORLD_RANK") && !lookup("OMPI_COMM_WORLD_SIZE")) return std::nullopt;
  require_all(lookup, "mpirun",
              {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"});
  Claim claim{
      .world = {}, .rank_name = "OMPI_COMM_WORLD_RANK", .size_name = "OMPI_COMM_WORLD_SIZE"};
  read_place(lookup, claim, "OMPI_COMM_WORLD_LOCAL_RANK");
  World& world = claim.world;
  world.source = "mpirun";
  const auto local_size = read_integer(lookup, "OMPI_COMM_WORLD_LOCAL_SIZE", 1, world.world_size);
  if (local_size) world.local_size = *local_size;
  return claim;
}

void find_master_of_open_mpi(const Lookup& lookup, World& world) {
  const bool is_one_machine =
      lookup("OMPI_COMM_WORLD_LOCAL_SIZE") && world.local_size == world.world_size;
  const std::string job =
      lookup("PMIX_NAMESPACE").value_or(lookup("OMPI_MCA_ess_base_jobid").value_or(""));
  read_master(lookup, world, is_one_machine ? "127.0.0.1" : "", job);
}

// A batch script has SLURM_PROCID too, but is no task; and mpirun, torchrun or outstep launch
// inside a job may be the tasks, one a node, that start the ranks.
bool is_slurm_task(const Lookup& lookup) {
  if (!lookup("SLURM_PROCID")) return false;
  if (lookup("SLURM_JOB_ID") && !lookup("SLURM_STEP_ID")) return false;
  const bool is_daemon_step = lookup("SLURM_STEP_NUM_TASKS") &&
                              lookup("SLURM_STEP_NUM_TASKS") == lookup("SLURM_STEP_NUM_NODES");
  const bool is_started_by_another = lookup("OMPI_COMM_WORLD_RANK") || lookup("RANK");
  return !(is_started_by_another && is_daemon_step);
}

// This node's part of "2(x3),1": two tasks on each of three nodes, then one.
std::optional<int> tasks_of_node(const std::string& tasks_per_node, int node) {
  int first_node = 0;
  for (size_t at = 0; at < tasks_per_node.size();) {
    const size_t comma = std::min(tasks_per_node.find(',', at), tasks_per_node.size());
    const std::string part = tasks_per_node.substr(at, comma - at);
    const size_t times = part.find("(x");
    const bool repeats = times != std::string::npos && part.back() == ')';
    const int tasks = parse_integer("SLURM_STEP_TASKS_PER_NODE",
                                    part.substr(0, repeats ? times : part.size()), 1, 1 << 20);
    const int repeat =
        repeats ? parse_integer("SLURM_STEP_TASKS_PER_NODE",
                                part.substr(times + 2, part.size() - times - 3), 1, 1 << 20)
                : 1;
    if (node < first_node + repeat) return tasks;
    first_node += repeat;
    at = comma + 1;
  }
  return std::nullopt;
}

std::optional<Claim> claim_of_slurm(const Lookup& lookup) {
  if (!is_slurm_task(lookup)) return std::nullopt;
  require_all(lookup, "srun", {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"});
  Claim claim{.world = {}, .rank_name = "SLURM_PROCID", .size_name = "SLURM_NTASKS"};
  read_place(lookup, claim, "SLURM_LOCALID");
  World& world = claim.world;
  world.source = "srun";
  const auto tasks = lookup("SLURM_STEP_TASKS_PER_NODE");
  const auto node = read_integer(lookup, "SLURM_NODEID", 0, 1 << 20);
  if (tasks && node) world.local_size = tasks_of_node(*tasks, *node).value_or(world.world_size);
  return claim;
}

void find_master_of_slurm(const Lookup& lookup, World& world) {
  std::string host;
  const auto nodes = lookup("SLURM_STEP_NODELIST");
  if (const auto list = nodes ? nodes : lookup("SLURM_JOB_NODELIST"))
    host = first_slurm_host(*list);
  if (lookup("SLURM_STEP_NUM_NODES").value_or("") == "1") host = "127.0.0.1";
  std::string job = lookup("SLURM_JOB_ID").value_or("");
  if (!job.empty()) job += "." + lookup("SLURM_STEP_ID").value_or("0");
  read_master(lookup, world, host, job);
}

void require_same(const Claim& a, const Claim& b) {
  const auto differ = [&](const std::string& what, const std::string& a_name, int a_value,
                          const std::string& b_name, int b_value) {
    if (a_value == b_value) return;
    throw ConfigError(
        "two launchers disagree about the {}: {} is {} ({}), but {} is {} ({}); start the program "
        "with one "
        "launcher, or unset the variables of the other",
        what, a_name, a_value, a.world.source, b_name, b_value, b.world.source);
  };
  differ("world size", a.size_name, a.world.world_size, b.size_name, b.world.world_size);
  differ("rank", a.rank_name, a.world.rank, b.rank_name, b.world.rank);
}

}  // namespace

std::optional<std::string> environment_variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return value;
}

HostedRanks hosted_ranks(const World& process, int world_size) {
  const auto first_of = [&](int number) {
    return static_cast<int>(int64_t{number} * world_size / process.world_size);
  };
  const int first_here = std::max(process.rank - process.local_rank, 0);
  const int end_here = std::min(first_here + process.local_size, process.world_size);
  const int first = first_of(process.rank);
  return {.first_rank = first,
          .num_ranks = first_of(process.rank + 1) - first,
          .first_local_rank = first - first_of(first_here),
          .local_size = first_of(end_here) - first_of(first_here)};
}

bool is_place_of_process(std::string_view name) {
  return name.starts_with("OMPI_COMM_WORLD_") || name == "SLURM_PROCID" || name == "SLURM_NTASKS" ||
         name == "SLURM_LOCALID";
}

std::string first_slurm_host(const std::string& node_list) {
  const size_t bracket = node_list.find('[');
  const size_t comma = node_list.find(',');
  std::string host = node_list.substr(0, std::min(bracket, comma));
  if (bracket < comma) {  // "node[01-04,07]": the first number as it is written
    const size_t end = node_list.find_first_of(",-]", bracket);
    const size_t close = node_list.find(']', bracket);
    const std::string number =
        end == std::string::npos ? "" : node_list.substr(bracket + 1, end - bracket - 1);
    const bool is_number =
        !number.empty() && number.find_first_not_of("0123456789") == std::string::npos;
    if (close == std::string::npos || !is_number) host.clear();
    const size_t rest = std::min(node_list.find(',', close), node_list.size());
    if (!host.empty()) host += number + node_list.substr(close + 1, rest - close - 1);
  }
  if (host.empty() || host.find_first_of("[] ") != std::string::npos) {
    throw ConfigError(
        "Slurm's node list \"{}\" has no first host; set MASTER_ADDR to the host of rank 0",
        node_list);
  }
  return host;
}

World world_from_environment(const Lookup& lookup) {
  std::vector<Claim> claims;
  for (const auto& claim :
       {claim_of_torchrun(lookup), claim_of_open_mpi(lookup), claim_of_slurm(lookup)}) {
    if (claim) claims.push_back(*claim);
  }
  if (claims.empty()) return {};
  for (const Claim& claim : claims) require_same(claims.front(), claim);
  World world = claims.front().world;
  if (world.source == "mpirun") find_master_of_open_mpi(lookup, world);
  if (world.source == "srun") find_master_of_slurm(lookup, world);
  return world;
}

}  // namespace outstep::comm
