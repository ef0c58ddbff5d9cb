#include "outstep/apps/bench_parts.h"

#include <algorithm>

#include "outstep/base/clock.h"
#include "outstep/method/committing.h"
#include "outstep/optim/norm.h"

namespace outstep::apps {
namespace {

constexpr int kWarmUp = 2;

struct Part {
  std::string name;
  std::function<void()> run;
  double work = 0;
  std::string work_unit = {};
  std::string note = {};
};

Timing measure(const Part& part, comm::Group& world, int repetitions) {
  Timing timing{.part = part.name,
                .seconds = {},
                .work = part.work,
                .work_unit = part.work_unit,
                .note = part.note};
  for (int i = 0; i < kWarmUp + repetitions; ++i) {
    world.barrier({.what = "bench"});
    const auto begin = Clock::now();
    part.run();
    if (i >= kWarmUp) timing.seconds.push_back(seconds_since(begin));
  }
  return timing;
}

// An update of this rank's share, on vectors of its own.
class OptimizerUpdate {
 public:
  OptimizerUpdate(const optim::Optimizer& optimizer, const nn::FlatParams& params, double lr)
      : optimizer_(optimizer),
        values_(params.values().clone()),
        gradient_(at::full_like(params.values(), 1e-3)),
        state_(optimizer.make_state({.begin = 0, .end = values_.numel()})),
        lr_(lr) {}

  void operator()() {
    optimizer_.update({.gradient = gradient_,
                       .lr = lr_,
                       .params_in = values_,
                       .params_out = values_,
                       .state_in = &state_,
                       .state_out = &state_});
  }

 private:
  const optim::Optimizer& optimizer_;
  at::Tensor values_;    // [size of the flat vector]
  at::Tensor gradient_;  // [size of the flat vector]
  optim::State state_;
  double lr_;
};

}  // namespace

double Timing::median() const {
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  const size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
double Timing::least() const { return *std::min_element(seconds.begin(), seconds.end()); }
double Timing::most() const { return *std::max_element(seconds.begin(), seconds.end()); }

std::vector<Timing> time_parts(train::Recipe& recipe, train::Assembly& assembly, int repetitions) {
  nn::FlatParams& params = *assembly.params;
  comm::Group& control = *assembly.control_group;
  const auto size = static_cast<double>(params.values().numel());
  const data::Batch batch = assembly.stream->next();
  const auto units = static_cast<double>(batch.num_units);
  const std::string unit = assembly.data.unit;

  // A stream without a thread ahead: what making a batch itself takes.
  data::StreamOptions unprefetched = assembly.stream->options();
  unprefetched.prefetch = 0;
  data::Stream stream(assembly.data.train, unprefetched);
  OptimizerUpdate update(*assembly.optimizer, params, assembly.schedule.lr);

  std::vector<Part> parts{
      {"data: a micro-batch", [&] { stream.next(); }, units, unit,
       "made on a thread of its own while training"},
      {"forward + backward", [&] { assembly.engine->accumulate(); }, units, unit},
      {"forward (evaluation)", [&] { assembly.engine->evaluate(batch); }, units, unit},
      {"gradient norm", [&] { optim::squared_norm(params.gradients()); }, 4 * size, "bytes"},
      {"optimizer " + assembly.optimizer->name(), std::ref(update), size, "parameters",
       "all parameters; zero1 updates a share"},
  };
  const comm::Shards shards = method::shards_of(params, control);
  at::Tensor vector = at::zeros_like(params.values());                      // [size]
  at::Tensor shard = at::zeros({shards.size(control.rank())}, at::kFloat);  // [this rank's]
  if (control.size() > 1) {
    parts.push_back(
        {"all-reduce of a gradient", [&] { control.all_reduce(vector); }, 4 * size, "bytes"});
    parts.push_back({"reduce-scatter", [&] { control.reduce_scatter(vector, shard, shards); },
                     4 * size, "bytes"});
    parts.push_back(
        {"all-gather", [&] { control.all_gather(shard, vector, shards); }, 4 * size, "bytes"});
  }
  int64_t step = 0;
  const double step_units = units * static_cast<double>(recipe.train.accumulation * control.size());
  parts.push_back({"a whole step, sync " + assembly.sync->name(),
                   [&] {
                     assembly.sync->step(*assembly.engine,
                                         {.step = step++,
                                          .lr = assembly.schedule.at(0),
                                          .accumulation = recipe.train.accumulation,
                                          .clip_norm = recipe.train.clip_norm});
                   },
                   step_units, unit, "all replicas together"});
  std::vector<Timing> timings;
  for (const Part& part : parts)
    timings.push_back(measure(part, *assembly.world_group, repetitions));
  assembly.sync->pause({.step = step});  // what the last step has sent arrives
  return timings;
}

}  // namespace outstep::apps
