// One stage of a PETRA run that ends itself, or stands still, as it sends a given message, for
// petra_kills_test.py. It trains as `outstep train` does, under torchrun's variables; the same run
// can be resumed with `outstep resume`.
//
//   petra_peer RECIPE RUN --victim 1 --what gradients --micro-batch 6 --signal 9
//
// What: "activations", "gradients" or "activations to evaluate" of that micro-batch, or "mark", of
// which the --micro-batch'th is meant (from 0): stages send one each before they evaluate and
// before they save.

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/comm/hooked_testing.h"
#include "outstep/train/run_folder.h"
#include "outstep/train/trainer.h"

namespace outstep {
namespace {

struct Strike {
  std::string what;
  int64_t micro_batch = 0;
  int signal = SIGKILL;
  int64_t num_marks = 0;

  void on(const comm::testing::Moment& moment) {
    using When = comm::testing::Moment::When;
    if (moment.operation != "send" || moment.when != When::before || moment.what != what) return;
    const int64_t number = what == "mark" ? num_marks++ : moment.step;
    if (number != micro_batch) return;
    std::fprintf(stderr, "struck: %s %ld\n", what.c_str(), static_cast<long>(micro_batch));
    std::fflush(stderr);
    kill(getpid(), signal);  // all threads of this process
  }
};

// Watches the stages' group; others are handed through.
class WatchedFabric : public comm::Fabric {
 public:
  WatchedFabric(std::unique_ptr<comm::Fabric> inner, Strike* strike)
      : inner_(std::move(inner)), strike_(strike) {}

  std::unique_ptr<comm::Group> new_group(const std::string& name,
                                         const std::vector<int>& ranks) override {
    auto group = inner_->new_group(name, ranks);
    if (!strike_ || name != "stage") return group;
    return std::make_unique<comm::testing::Hooked>(
        std::move(group), [strike = strike_](const auto& moment) { strike->on(moment); });
  }
  const comm::World& world() const override { return inner_->world(); }
  comm::FlightRecorder* flights() override { return inner_->flights(); }

 private:
  const std::unique_ptr<comm::Fabric> inner_;
  Strike* const strike_;
};

int run(const std::string& recipe_path, const std::string& run_folder,
        const std::vector<std::string>& words) {
  std::map<std::string, std::string> options;
  for (size_t i = 0; i + 1 < words.size(); i += 2) options[words[i]] = words[i + 1];
  const comm::World world = comm::world_from_environment();
  Strike strike{.what = options.at("--what"),
                .micro_batch = std::stoll(options.at("--micro-batch")),
                .signal = std::stoi(options.at("--signal"))};
  const bool is_victim = std::stoi(options.at("--victim")) == world.rank;

  train::Recipe recipe = train::read_recipe(recipe_path, {});
  WatchedFabric fabric(comm::connect(world, recipe.comm), is_victim ? &strike : nullptr);
  const auto assembly = train::assemble(recipe, {}, fabric, nullptr);
  train::make_run_folder(run_folder, recipe.name, *assembly->world_group);
  train::run_training(recipe, *assembly, {.run_folder = run_folder});
  return 0;
}

}  // namespace
}  // namespace outstep

int main(int argc, char** argv) {
  at::set_num_interop_threads(1);
  try {
    return outstep::run(argv[1], argv[2], {argv + 3, argv + argc});
  } catch (const outstep::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.kind().c_str(), error.what());
    return error.exit_code();
  }
}
