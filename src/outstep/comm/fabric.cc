#include "outstep/comm/fabric.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <mutex>
#include <optional>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/comm/complaint.h"
#include "outstep/comm/gloo_group.h"
#include "outstep/comm/local_group.h"
#include "outstep/comm/mpi_fabric.h"
#include "outstep/comm/nccl_group.h"
#include "outstep/comm/network.h"
#include "outstep/comm/throttle.h"

namespace outstep::comm {
namespace {

int rank_in(const std::vector<int>& ranks, int world_rank) {
  const auto found = std::find(ranks.begin(), ranks.end(), world_rank);
  check(found != ranks.end(), "new_group is called by the ranks it lists");
  return static_cast<int>(found - ranks.begin());
}

// Tells a group from all others: calls with the same name and ranks are counted.
class GroupKeys {
 public:
  std::string next(const std::string& name, const std::vector<int>& ranks) {
    const std::string key = fmt::format("{}/{}", name, fmt::join(ranks, ","));
    return fmt::format("{}/{}", key, num_made_[key]++);
  }

 private:
  std::map<std::string, int> num_made_;
};

// Where the threads of a local world find the hub of a group: whoever comes first makes it.
class LocalHubs {
 public:
  std::shared_ptr<LocalHub> find(const std::string& key, const std::vector<int>& ranks) {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<LocalHub>& hub = hubs_[key];
    if (!hub) {
      std::vector<std::string> names;
      for (const int rank : ranks) names.push_back(fmt::format("rank {} (thread)", rank));
      hub = make_local_hub(std::move(names));
    }
    return hub;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<LocalHub>> hubs_;  // guarded by mutex_
};

class LocalFabric : public Fabric {
 public:
  LocalFabric(World world, std::shared_ptr<LocalHubs> hubs, std::chrono::milliseconds deadline)
      : world_(std::move(world)), hubs_(std::move(hubs)), deadline_(deadline) {}

  std::unique_ptr<Group> new_group(const std::string& name,
                                   const std::vector<int>& ranks) override {
    return std::make_unique<LocalGroup>(name, rank_in(ranks, world_.rank),
                                        hubs_->find(keys_.next(name, ranks), ranks), deadline_);
  }
  const World& world() const override { return world_; }

 private:
  const World world_;
  const std::shared_ptr<LocalHubs> hubs_;
  const std::chrono::milliseconds deadline_;
  GroupKeys keys_;
};

std::string own_address(const World& world, const FabricOptions& options) {
  if (!options.interface.empty()) {
    if (auto address = address_of_interface(options.interface)) return *address;
    throw ConfigError(
        "comm.interface is \"{}\", but this machine ({}) has no such network interface with an "
        "address; it "
        "has {}",
        options.interface, host_name(), fmt::join(interface_names(), ", "));
  }
  if (auto address = address_towards(world.master_addr, world.master_port)) return *address;
  throw CommError(
      "no way to \"{}\" from this machine ({}): the name is unknown or no network leads there; "
      "check "
      "MASTER_ADDR",
      world.master_addr, host_name());
}

// Gloo for CPU tensors, and NCCL for CUDA tensors where asked for.
class GlooFabric : public Fabric {
 public:
  GlooFabric(const World& world, const FabricOptions& options)
      : world_(world),
        deadline_(options.deadline),
        uses_nccl_(options.backend == "nccl"),
        address_(own_address(world, options)),
        device_(address_),
        rendezvous_(world, address_, options.deadline) {}

  std::unique_ptr<Group> new_group(const std::string& name,
                                   const std::vector<int>& ranks) override {
    GlooPlace place{.name = name,
                    .key = keys_.next(name, ranks),
                    .ranks = ranks,
                    .rank = rank_in(ranks, world_.rank),
                    .names = {},
                    .deadline = deadline_};
    for (const int rank : ranks)
      place.names.push_back(rendezvous_.names()[static_cast<size_t>(rank)]);
    const std::string key = place.key;
    auto group = std::make_unique<GlooGroup>(rendezvous_, device_, std::move(place));
    if (!uses_nccl_) return group;
    return make_nccl_group(std::move(group), rendezvous_, key, world_.local_rank);
  }
  const World& world() const override { return world_; }

 private:
  const World world_;
  const std::chrono::milliseconds deadline_;
  const bool uses_nccl_;
  const std::string address_;
  GlooDevice device_;
  Rendezvous rendezvous_;
  GroupKeys keys_;
};

// Gloo and c10d write to connections that their peer may have closed. Without this, that ends the
// process silently.
void survive_broken_pipes() {
  struct sigaction current{};
  if (sigaction(SIGPIPE, nullptr, &current) == 0 && current.sa_handler == SIG_DFL)
    std::signal(SIGPIPE, SIG_IGN);
}

std::unique_ptr<Fabric> connect_backend(const World& world, const FabricOptions& options) {
  const std::vector<std::string> known = {"gloo", "mpi", "nccl"};
  if (std::find(known.begin(), known.end(), options.backend) == known.end()) {
    const std::string nearest = nearest_spelling(options.backend, known);
    throw ConfigError("comm.backend is \"{}\"; it must be one of {}{}", options.backend,
                      fmt::join(known, ", "),
                      nearest.empty() ? "" : fmt::format("; did you mean \"{}\"?", nearest));
  }
  if (options.backend == "nccl") require_nccl(world);
  if (options.backend == "nccl" && !options.link.empty()) {
    throw ConfigError("comm.link simulates a link for \"gloo\" and \"mpi\", not for \"nccl\"");
  }
  if (world.world_size == 1) {
    return std::make_unique<LocalFabric>(world, std::make_shared<LocalHubs>(), options.deadline);
  }
  survive_broken_pipes();
  if (options.backend == "mpi") return connect_mpi(world, options.deadline);
  return std::make_unique<GlooFabric>(world, options);
}

// Puts the wrappers that the options ask for around every group of another fabric.
class WrappingFabric : public Fabric {
 public:
  WrappingFabric(std::unique_ptr<Fabric> inner, const FabricOptions& options)
      : inner_(std::move(inner)) {
    if (!options.link.empty()) link_ = std::make_shared<Link>(parse_link(options.link));
    if (options.record_flights) flights_.emplace(world().rank, world().world_size);
  }

  std::unique_ptr<Group> new_group(const std::string& name,
                                   const std::vector<int>& ranks) override {
    std::unique_ptr<Group> group = inner_->new_group(name, ranks);
    if (link_) group = std::make_unique<Throttled>(std::move(group), link_);
    if (flights_) group = std::make_unique<Recorded>(std::move(group), *flights_);
    return group;
  }
  const World& world() const override { return inner_->world(); }
  FlightRecorder* flights() override { return flights_ ? &*flights_ : nullptr; }

 private:
  const std::unique_ptr<Fabric> inner_;
  std::shared_ptr<Link> link_;
  std::optional<FlightRecorder> flights_;
};

}  // namespace

std::unique_ptr<Fabric> connect(const World& world, const FabricOptions& options) {
  if (!options.link.empty()) parse_link(options.link);  // refused before anybody is met
  return std::make_unique<WrappingFabric>(connect_backend(world, options), options);
}

std::vector<std::unique_ptr<Fabric>> local_fabrics(int world_size, const FabricOptions& options) {
  if (options.backend != FabricOptions().backend || !options.interface.empty()) {
    throw ConfigError(
        "comm.backend and comm.interface are for ranks that are processes; ranks that are threads "
        "of one (--local) talk in its memory: leave them out");
  }
  const auto hubs = std::make_shared<LocalHubs>();
  std::vector<std::unique_ptr<Fabric>> fabrics;
  for (int rank = 0; rank < world_size; ++rank) {
    auto fabric = std::make_unique<LocalFabric>(
        World{.rank = rank, .world_size = world_size, .local_rank = rank, .local_size = world_size},
        hubs, options.deadline);
    fabrics.push_back(std::make_unique<WrappingFabric>(std::move(fabric), options));
  }
  return fabrics;
}

}  // namespace outstep::comm
