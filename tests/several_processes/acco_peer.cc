// One rank of a training run that ends itself, or stands still, at a given moment of a given step,
// for acco_kills_test.py. It trains as `outstep train` does, under torchrun's variables; the same
// run can be resumed with `outstep resume`.
//
//   acco_peer RECIPE RUN --victim 1 --phase reduce_scatter --step 6 --round 0 --signal 9
//
// Round 0 of a step makes ACCO's estimate, round 1 commits; each adds a micro-batch, as counts are
// fixed and train.accumulation is 2. Phases, in the order of a round:
//   accumulate      as the micro-batch begins
//   counts          before the counts of a half are told
//   reduce_scatter  when a gradient is partly sent
//   norm            when the norm is known, as the shard is about to be updated
//   all_gather      when parameters are partly sent
//   swap            as the parameters that have come go live
//   checkpoint      while state is being saved, the next half having been reduced in a pause
// At a step at which a checkpoint is due, counts and reduce_scatter strike in the pause before it.

#include <ATen/record_function.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
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
  std::string phase;
  int64_t step = 0;
  int64_t round = 0;
  int signal = SIGKILL;

  // Of this process's micro-batches, those before the step: one to begin with, then two a step.
  int64_t num_before() const { return 1 + 2 * step; }

  void here() const {
    std::fprintf(stderr, "struck: %s, step %ld\n", phase.c_str(), static_cast<long>(step));
    std::fflush(stderr);
    kill(getpid(), signal);  // all threads of this process
  }
};
// For what has no place to keep it; null on ranks that nothing happens to.
const Strike* the_strike = nullptr;
std::atomic<bool> swap_is_next = false;

// Called by torch on the thread that computes, before each operator.
std::unique_ptr<at::ObserverContext> on_operator(const at::RecordFunction& function) {
  if (swap_is_next.load() && std::string(function.name()) == "aten::copy_") the_strike->here();
  return nullptr;
}

// Called on the thread that communicates.
void on_communication(const Strike& strike, int64_t& rounds_left,
                      const comm::testing::Moment& moment) {
  using When = comm::testing::Moment::When;
  if (moment.step != strike.step) return;
  const bool is_sent = moment.operation == "send" && moment.when == When::after;
  const bool strikes =
      (strike.phase == "counts" && moment.what == "counts" && moment.when == When::before) ||
      (strike.phase == "reduce_scatter" && moment.what == "gradients" && is_sent) ||
      (strike.phase == "norm" && moment.what == "gradient norm" && moment.when == When::after &&
       moment.operation == "all_reduce") ||
      (strike.phase == "all_gather" && moment.what == "parameters" && is_sent);
  if (strikes && rounds_left-- == 0) strike.here();
}

// Watches the sync's group; others are handed through.
class WatchedFabric : public comm::Fabric {
 public:
  WatchedFabric(std::unique_ptr<comm::Fabric> inner, const Strike* strike)
      : inner_(std::move(inner)), strike_(strike) {}

  std::unique_ptr<comm::Group> new_group(const std::string& name,
                                         const std::vector<int>& ranks) override {
    auto group = inner_->new_group(name, ranks);
    if (!strike_ || name != "replica") return group;
    return std::make_unique<comm::testing::Hooked>(
        std::move(group),
        [strike = strike_, rounds_left = strike_->round](const auto& moment) mutable {
          on_communication(*strike, rounds_left, moment);
        });
  }
  const comm::World& world() const override { return inner_->world(); }
  comm::FlightRecorder* flights() override { return inner_->flights(); }

 private:
  const std::unique_ptr<comm::Fabric> inner_;
  const Strike* const strike_;
};

// Strikes where the sync computes and where the trainer saves.
class WatchedEngine : public method::GradientEngine {
 public:
  WatchedEngine(std::unique_ptr<method::GradientEngine> inner, const Strike& strike)
      : inner_(std::move(inner)), strike_(strike) {}

  method::Contribution accumulate() override {
    const bool is_due = num_accumulated_++ == strike_.num_before() + strike_.round;
    if (is_due && strike_.phase == "accumulate") strike_.here();
    const auto contribution = inner_->accumulate();
    if (is_due && strike_.phase == "swap") swap_is_next = true;
    return contribution;
  }
  void save(io::StateWriter& writer) const override {
    const bool is_due = num_accumulated_ == strike_.num_before();
    if (is_due && strike_.phase == "checkpoint") strike_.here();
    inner_->save(writer);
  }
  void load(io::StateReader& reader) override { inner_->load(reader); }

  at::Tensor predict(const data::Batch& batch, nn::ForwardContext context) override {
    return inner_->predict(batch, context);
  }
  method::Evaluation score(const at::Tensor& logits, const data::Batch& batch) override {
    return inner_->score(logits, batch);
  }
  void on_range_ready(method::RangeCallback callback) override {
    inner_->on_range_ready(std::move(callback));
  }
  void on_range_needed(method::NeedCallback callback) override {
    inner_->on_range_needed(std::move(callback));
  }
  nn::FlatParams& params() override { return inner_->params(); }

 private:
  const std::unique_ptr<method::GradientEngine> inner_;
  const Strike& strike_;
  int64_t num_accumulated_ = 0;
};

int run(const std::string& recipe_path, const std::string& run_folder,
        const std::vector<std::string>& words) {
  std::map<std::string, std::string> options;
  for (size_t i = 0; i + 1 < words.size(); i += 2) options[words[i]] = words[i + 1];
  const comm::World world = comm::world_from_environment();
  const Strike strike{.phase = options.at("--phase"),
                      .step = std::stoll(options.at("--step")),
                      .round = std::stoll(options.at("--round")),
                      .signal = std::stoi(options.at("--signal"))};
  if (std::stoi(options.at("--victim")) == world.rank) the_strike = &strike;

  train::Recipe recipe = train::read_recipe(recipe_path, {});
  WatchedFabric fabric(comm::connect(world, recipe.comm), the_strike);
  const auto assembly = train::assemble(recipe, {}, fabric, nullptr);
  if (the_strike) {
    assembly->engine = std::make_unique<WatchedEngine>(std::move(assembly->engine), strike);
    at::addThreadLocalCallback(at::RecordFunctionCallback(on_operator));
  }
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
