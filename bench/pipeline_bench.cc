// Runs the schedules of a pipeline for real, each stage a thread whose computing is a timed wait,
// so that two cores can hold eighteen stages; beside what the virtual clock says of them. Block
// times are measured on a RevNet, then stretched. With --stretch 0 nothing waits: what is left is
// what the executor itself takes for a micro-batch.
//
//   pipeline_bench --stages 4 --stages 18 --modes petra --modes 1f1b --stretch 2
//
// Prints one JSON line for each number of stages and mode.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/comm/local_group.h"
#include "outstep/engine/pipeline/clock.h"
#include "outstep/engine/pipeline/footprint.h"
#include "outstep/engine/pipeline/pipeline.h"
#include "outstep/nn/coupling.h"
#include "outstep/nn/revnet.h"

namespace {

using namespace outstep;
using engine::BlockCost;

struct Flags {
  std::vector<int> stages = {4, 8, 10, 18};
  std::vector<std::string> modes = engine::pipeline_mode_names();
  int depth = 34;      // of the RevNet
  int64_t width = 16;  // of its streams
  int64_t micro_batch = 64;
  int64_t accumulation = 16;
  double stretch = 2;
};

void wait(double seconds) {
  if (seconds > 0) std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// The identity, which takes its time.
class Waiting : public torch::autograd::Function<Waiting> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            double forward_seconds, double backward_seconds) {
    wait(forward_seconds);
    context->saved_data["seconds"] = backward_seconds;
    return x.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    wait(context->saved_data["seconds"].toDouble());
    return {gradients[0], at::Tensor(), at::Tensor()};
  }
};

constexpr int64_t kBatch = 4;
constexpr int64_t kChannels = 8;

class WaitingCoupling : public nn::Coupling {
 public:
  WaitingCoupling(std::string name, const BlockCost& cost)
      : Coupling(std::move(name)),
        cost_(cost),
        scale_(add_parameter(this->name(), {1}, nn::init::ones())) {}
  at::Tensor residual(const at::Tensor& x, nn::ForwardContext&) override {
    return Waiting::apply(x * scale_.tensor, cost_.forward_seconds, cost_.backward_seconds);
  }

 private:
  const BlockCost cost_;
  const nn::Parameter& scale_;
};

// A stem, which makes two streams of one; a block without an inverse; or a head.
class WaitingBlock : public nn::Block {
 public:
  WaitingBlock(std::string name, const BlockCost& cost)
      : Block(std::move(name)),
        cost_(cost),
        scale_(add_parameter(this->name(), {1}, nn::init::ones())) {}
  nn::Streams forward(const nn::Streams& input, nn::ForwardContext&) override {
    const at::Tensor y =
        Waiting::apply(input.x * scale_.tensor, cost_.forward_seconds, cost_.backward_seconds);
    return {.x = y, .other = input.are_two() ? input.other : y};
  }

 private:
  const BlockCost cost_;
  const nn::Parameter& scale_;
};

class WaitingModel : public nn::Model {
 public:
  WaitingModel(const std::vector<engine::BlockSize>& like, const std::vector<BlockCost>& costs) {
    for (size_t b = 0; b < like.size(); ++b) {
      if (like[b].is_reversible) {
        blocks.push_back(std::make_unique<WaitingCoupling>(like[b].name, costs[b]));
      } else {
        blocks.push_back(std::make_unique<WaitingBlock>(like[b].name, costs[b]));
      }
    }
  }
  const std::string& family() const override {
    static const std::string name = "waiting";
    return name;
  }
  void require_takes(const nn::ModelFacts&, const nn::OriginOf&) const override {}
  nlohmann::ordered_json config() const override { return {}; }
  at::Tensor example_input(int64_t batch) const override { return at::ones({batch, kChannels}); }
  at::Tensor example_target(int64_t batch) const override { return at::zeros({batch}, at::kLong); }
};

class Ones : public data::Dataset {
 public:
  int64_t size() const override { return 64; }
  data::Batch gather(std::span<const Example> examples, const Draw&) const override {
    const auto batch = static_cast<int64_t>(examples.size());
    return {.inputs = at::ones({batch, kChannels}),
            .targets = at::zeros({batch}, at::kLong),
            .num_samples = batch,
            .num_units = batch};
  }
  std::string unit() const override { return "samples"; }
  std::string describe() const override { return "ones"; }
};

struct Measured {
  double seconds_per_micro_batch = 0;
  double bubble_fraction = 0;  // of the time, a mean over stages
  int64_t num_micro_batches = 0;
};

// Between the end of micro-batch `from` and that of the last of 2 · from at the first stage.
Measured run(const std::vector<engine::BlockSize>& sizes, const std::vector<BlockCost>& costs,
             const engine::Cut& cut, const engine::PipelineOptions& options, int64_t from) {
  Measured measured{.num_micro_batches = from};
  std::vector<double> idle(cut.size()), seconds(cut.size());
  comm::run_local_ranks(static_cast<int>(cut.size()), [&](comm::Group& group) {
    at::set_num_threads(1);
    const auto stage = static_cast<size_t>(group.rank());
    WaitingModel model(sizes, costs);
    nn::FlatParams params(model, 1, {.blocks = engine::blocks_of(cut, group.rank())});
    data::Stream stream(std::make_shared<Ones>(), {.micro_batch = kBatch, .prefetch = 0});
    engine::PipelineEngine pipeline(
        {.model = model, .params = params, .stream = stream, .stages = group}, options);
    Clock::time_point begin;
    for (int64_t m = 0; m < 2 * from; ++m) {
      if (m == from) {
        pipeline.take_report();
        begin = Clock::now();
      }
      pipeline.accumulate();
    }
    seconds[stage] = seconds_since(begin);
    idle[stage] = pipeline.take_report().idle_seconds;
    pipeline.pause();
  });
  measured.seconds_per_micro_batch = seconds[0] / static_cast<double>(from);
  for (size_t j = 0; j < cut.size(); ++j) {
    measured.bubble_fraction += idle[j] / seconds[j] / static_cast<double>(cut.size());
  }
  return measured;
}

void measure(const Flags& flags) {
  at::set_num_threads(1);
  auto options = nn::RevNetOptions::of_depth(flags.depth);
  options.stem = "cifar";
  options.width = flags.width;
  options.image_size = 32;
  options.num_classes = 10;
  nn::RevNet model(options);
  const auto sizes = engine::measure_sizes(model);
  std::vector<BlockCost> costs =
      engine::measure_blocks(model, model.example_input(flags.micro_batch),
                             model.example_target(flags.micro_batch), {.channels_last = true});
  double of_one_process = 0;
  for (BlockCost& cost : costs) {
    of_one_process += cost.forward_seconds + cost.backward_seconds;
    cost = {.forward_seconds = cost.forward_seconds * flags.stretch,
            .backward_seconds = cost.backward_seconds * flags.stretch,
            .is_reversible = cost.is_reversible};
  }
  for (const int num_stages : flags.stages) {
    for (const std::string& name : flags.modes) {
      const engine::Mode mode = engine::pipeline_mode(name);
      const engine::Cut cut = engine::balanced_cut(costs, num_stages, mode);
      const int64_t flush_every = mode.flushes() ? flags.accumulation : engine::Program::kNever;
      const engine::Schedule schedule{
          .order = mode.order, .num_stages = num_stages, .flush_every = flush_every};
      const int64_t k = flags.accumulation;
      const int64_t from = (4 * num_stages + k - 1) / k * k;  // the pipeline has long been full
      const auto clock = engine::simulate(schedule, engine::pass_times(costs, cut, mode), 2 * from);
      const Measured measured =
          run(sizes, costs, cut, {.mode = mode, .flush_every = flush_every}, from);
      const double predicted = clock.seconds_per_micro_batch(from);
      int64_t bytes = 0, largest = 0;
      for (int stage = 0; stage < num_stages; ++stage) {
        const int64_t of_stage =
            engine::stage_bytes(sizes, cut, stage, mode, {.micro_batch = flags.micro_batch, .k = k})
                .total();
        bytes += of_stage;
        largest = std::max(largest, of_stage);
      }
      const nlohmann::ordered_json line = {{"mode", name},
                                           {"stages", num_stages},
                                           {"k", k},
                                           {"stretch", flags.stretch},
                                           {"one_process_seconds", of_one_process * flags.stretch},
                                           {"clock_seconds", predicted},
                                           {"measured_seconds", measured.seconds_per_micro_batch},
                                           {"clock_bubble", clock.bubble_fraction(from)},
                                           {"measured_bubble", measured.bubble_fraction},
                                           {"micro_batches", measured.num_micro_batches},
                                           {"bytes", bytes},
                                           {"largest_stage_bytes", largest}};
      std::printf("%s\n", line.dump().c_str());
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Pipeline schedules with timed waits, beside the virtual clock");
  app.add_option("--stages", flags.stages, "Stages; may be repeated");
  app.add_option("--modes", flags.modes, "Engines, as petra; may be repeated")
      ->check(CLI::IsMember(engine::pipeline_mode_names()));
  app.add_option("--depth", flags.depth, "Of the RevNet: 18, 34 or 50")
      ->check(CLI::IsMember({18, 34, 50}));
  app.add_option("--width", flags.width, "Channels of its streams");
  app.add_option("--micro_batch", flags.micro_batch, "Images");
  app.add_option("--accumulation", flags.accumulation, "Micro-batches a step");
  app.add_option("--stretch", flags.stretch, "Factor of all block times; 0: no waits");
  CLI11_PARSE(app, argc, argv);
  try {
    measure(flags);
  } catch (const Error& error) {
    std::fprintf(stderr, "pipeline_bench: %s: %s\n", error.kind().c_str(), error.what());
    return error.exit_code();
  }
}
