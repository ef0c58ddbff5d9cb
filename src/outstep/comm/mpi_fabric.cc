#include "outstep/comm/mpi_fabric.h"

#include "outstep/base/errors.h"

#ifdef OUTSTEP_MPI

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "outstep/comm/bounded.h"
#include "outstep/comm/mpi_group.h"
#include "outstep/comm/network.h"

namespace outstep::comm {
namespace {

using Label = std::array<char, 128>;  // "host:pid", ends with zeros

class MpiFabric : public Fabric {
 public:
  MpiFabric(const World& world, std::chrono::milliseconds deadline)
      : world_(world), deadline_(deadline), runtime_(std::make_shared<MpiRuntime>()) {
    require_same_world();
    exchange_names();
  }

  std::unique_ptr<Group> new_group(const std::string& name,
                                   const std::vector<int>& ranks) override {
    const auto own = std::find(ranks.begin(), ranks.end(), world_.rank);
    check(own != ranks.end(), "new_group is called by the ranks it lists");
    auto communicator = std::make_shared<MPI_Comm>(MPI_COMM_NULL);
    bounded(fmt::format("make the group \"{}\"", name), [communicator, ranks] {
      MPI_Group everybody = MPI_GROUP_NULL, members = MPI_GROUP_NULL;
      check_mpi(MPI_Comm_group(MPI_COMM_WORLD, &everybody), "MPI_Comm_group");
      check_mpi(MPI_Group_incl(everybody, static_cast<int>(ranks.size()), ranks.data(), &members),
                "MPI_Group_incl");
      check_mpi(MPI_Comm_create_group(MPI_COMM_WORLD, members, /*tag=*/0, communicator.get()),
                "MPI_Comm_create_group");
      MPI_Group_free(&members);
      MPI_Group_free(&everybody);
    });
    std::vector<std::string> names;
    for (const int rank : ranks) names.push_back(names_[static_cast<size_t>(rank)]);
    return std::make_unique<MpiGroup>(name, runtime_, *communicator, std::move(names),
                                      static_cast<int>(own - ranks.begin()), deadline_);
  }
  const World& world() const override { return world_; }

 private:
  // MPI's own collectives have no deadline.
  void bounded(const std::string& purpose, std::function<void()> call) {
    run_bounded(
        deadline_,
        [runtime = runtime_, call = std::move(call)] {
          if (const auto lock = runtime->enter()) call();
        },
        [&] {
          runtime_->mark_stuck();
          return CommError("not all ranks came to {} within {} (MPI, world of {})", purpose,
                           describe_deadline(deadline_), world_.world_size);
        });
  }

  void require_same_world() {
    int rank = 0, size = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (rank == world_.rank && size == world_.world_size) return;
    runtime_->mark_failed();
    throw ConfigError(
        "comm.backend is \"mpi\", but MPI says rank {} of {} where the variables ({}) say rank {} "
        "of {}; start "
        "the program with mpirun of the MPI it was built with, or use comm.backend = \"gloo\"",
        rank, size, world_.source, world_.rank, world_.world_size);
  }

  void exchange_names() {
    auto labels = std::make_shared<std::vector<Label>>(static_cast<size_t>(world_.world_size));
    bounded("exchange their names", [labels] {
      Label own{};
      const std::string text = fmt::format("{}:{}", host_name(), getpid());
      std::copy_n(text.begin(), std::min(text.size(), own.size() - 1), own.begin());
      const int length = static_cast<int>(own.size());
      check_mpi(MPI_Allgather(own.data(), length, MPI_BYTE, labels->data(), length, MPI_BYTE,
                              MPI_COMM_WORLD),
                "MPI_Allgather");
    });
    for (int rank = 0; rank < world_.world_size; ++rank) {
      names_.push_back(
          fmt::format("rank {} ({})", rank, (*labels)[static_cast<size_t>(rank)].data()));
    }
  }

  const World world_;
  const std::chrono::milliseconds deadline_;
  const std::shared_ptr<MpiRuntime> runtime_;
  std::vector<std::string> names_;
};

}  // namespace

std::unique_ptr<Fabric> connect_mpi(const World& world, std::chrono::milliseconds deadline) {
  return std::make_unique<MpiFabric>(world, deadline);
}

}  // namespace outstep::comm

#else

namespace outstep::comm {

std::unique_ptr<Fabric> connect_mpi(const World&, std::chrono::milliseconds) {
  throw ConfigError(
      "comm.backend is \"mpi\", but this outstep was built without MPI; configure it with "
      "-DOUTSTEP_MPI=ON, or "
      "use comm.backend = \"gloo\"");
}

}  // namespace outstep::comm

#endif  // OUTSTEP_MPI
