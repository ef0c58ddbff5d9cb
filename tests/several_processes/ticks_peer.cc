// A stage in a process of its own, over Gloo, in all modes of ticks: it makes the steps that the
// simulator of the specification makes beside it, to the last bit. Started by `outstep launch`, as
// many as stages.

#include <fmt/format.h>

#include <cstdio>

#include "outstep/base/errors.h"
#include "outstep/comm/fabric.h"
#include "outstep/engine/pipeline/testing.h"

namespace outstep::engine {
namespace {

// Says what differs; returns how much does.
int64_t compare(const testing::Setting& setting, comm::Group& group) {
  testing::TickSimulator simulator(setting);
  const testing::Trajectory expected = simulator.run();
  const auto stage = static_cast<size_t>(group.rank());
  testing::StageRank rank(setting, group);
  std::vector<double> losses;
  int64_t num_different = 0;
  for (int64_t s = 0; s < setting.steps; ++s) {
    testing::dawdle(group.rank(), s);
    const auto added = rank.step();
    if (added.num_losses > 0) losses.push_back(added.loss_sum);
    const bool is_same =
        at::equal(rank.gradients.back(), expected.gradients[stage][static_cast<size_t>(s)]) &&
        at::equal(rank.params.values(), expected.values[stage][static_cast<size_t>(s)]);
    if (is_same) continue;
    ++num_different;
    std::fprintf(stderr, "%s, stage %zu: step %ld differs from the simulator's\n",
                 setting.mode.c_str(), stage, static_cast<long>(s));
  }
  rank.engine.pause();
  group.barrier();  // whoever leaves first closes its connections
  if (stage + 1 == setting.cut.size() && losses != expected.losses) {
    ++num_different;
    std::fprintf(stderr, "%s: losses differ from the simulator's\n", setting.mode.c_str());
  }
  return num_different;
}

int run() {
  const comm::World world = comm::world_from_environment();
  const auto fabric = comm::connect(world, {});
  std::vector<int> everyone;
  for (int rank = 0; rank < world.world_size; ++rank) everyone.push_back(rank);
  int64_t num_different = 0, num_runs = 0;
  for (const auto& make_model : {testing::basic_revnet, testing::revgpt}) {
    const int64_t num_blocks = std::ssize(make_model()->blocks);
    Cut cut(static_cast<size_t>(world.world_size), num_blocks / world.world_size);
    cut.back() += num_blocks % world.world_size;
    for (const std::string& mode : pipeline_mode_names()) {
      if (pipeline_mode(mode).flushes()) continue;
      for (const int64_t k : {1, 2}) {
        const auto group = fabric->new_group(fmt::format("run {}", num_runs), everyone);
        num_different += compare(
            {.make_model = make_model, .mode = mode, .cut = cut, .accumulation = k}, *group);
        ++num_runs;
      }
    }
  }
  if (world.rank == 0) std::printf("%ld runs\n", static_cast<long>(num_runs));
  return num_different == 0 && num_runs > 0 ? 0 : 1;
}

}  // namespace
}  // namespace outstep::engine

int main() {
  at::set_num_interop_threads(1);
  try {
    return outstep::engine::run();
  } catch (const outstep::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.kind().c_str(), error.what());
    return error.exit_code();
  }
}
