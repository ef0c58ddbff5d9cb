#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "outstep/comm/local_group.h"
#include "outstep/engine/pipeline/cut.h"
#include "outstep/engine/pipeline/pipeline.h"
#include "outstep/engine/testing.h"
#include "outstep/method/committing.h"
#include "outstep/method/layout.h"
#include "outstep/nn/coupling.h"
#include "outstep/nn/revgpt.h"
#include "outstep/nn/revnet.h"
#include "outstep/nn/revvit.h"
#include "outstep/optim/sgd.h"

// What tests of pipelines share: small models, a world of stages that are threads of the test, and
// the specification's ticks written down a second time, for one process (TickSimulator).

namespace outstep::engine::testing {

using MakeModel = std::function<std::unique_ptr<nn::Model>()>;

// Seven blocks, of which blocks 0, 3 and 6 are not reversible. 16 channels: the fused batch norm.
inline std::unique_ptr<nn::Model> basic_revnet() {
  return std::make_unique<nn::RevNet>(
      nn::RevNetOptions{.blocks = {"stem", "rev", "rev", "down", "rev", "rev", "head"},
                        .stem = "cifar",
                        .width = 16,
                        .num_classes = kNumClasses,
                        .image_size = 8});
}
inline std::unique_ptr<nn::Model> bottleneck_revnet() {
  return std::make_unique<nn::RevNet>(
      nn::RevNetOptions{.blocks = {"stem", "widen", "rev", "down", "rev", "rev", "head"},
                        .kind = "bottleneck",
                        .stem = "cifar",
                        .width = 4,
                        .num_classes = kNumClasses,
                        .image_size = 8});
}

// Six blocks, of which blocks 0 and 5 are not reversible; with dropout in every place.
inline std::unique_ptr<nn::Model> revgpt() {
  return std::make_unique<nn::RevGpt>(nn::RevGptOptions{.gpt = {.vocab_size = kNumClasses,
                                                                .n_positions = 8,
                                                                .n_embd = 32,
                                                                .n_layer = 2,
                                                                .n_head = 2,
                                                                .embd_pdrop = 0.1,
                                                                .resid_pdrop = 0.1,
                                                                .attn_pdrop = 0.1,
                                                                .tie_word_embeddings = false}});
}

// Likewise, of images: 4 tokens and that of the class.
inline std::unique_ptr<nn::Model> revvit() {
  return std::make_unique<nn::RevVit>(nn::RevVitOptions{.layers = {.n_embd = 32,
                                                                   .n_layer = 2,
                                                                   .n_head = 2,
                                                                   .embd_pdrop = 0.1,
                                                                   .resid_pdrop = 0.1,
                                                                   .attn_pdrop = 0.1},
                                                        .head = "concat",
                                                        .pool = "token",
                                                        .num_classes = kNumClasses,
                                                        .image_size = 8});
}

// A run: which model, cut how, trained how.
struct Setting {
  MakeModel make_model = basic_revnet;
  std::string mode = "petra";
  Cut cut = {1, 1, 1, 1, 1, 1, 1};
  int64_t accumulation = 1;  // k
  int64_t steps = 6;
  double lr = 0.05;
  double momentum = 0.9;
  Precision precision = Precision::fp32;
  StatisticsIn statistics_in = StatisticsIn::backward;
  std::optional<bool> last_keeps_graph = std::nullopt;  // the mode's own
  bool checkpoints = false;
  int64_t flush_every = 0;    // micro-batches; 0: never with ticks
  int64_t measure_every = 0;  // micro-batches
  int64_t credits = 0;        // 0: ticks

  int num_stages() const { return static_cast<int>(cut.size()); }
  PipelineOptions options() const {
    PipelineOptions options{.mode = pipeline_mode(mode),
                            .precision = precision,
                            .statistics_in = statistics_in,
                            .flush_every = Program::kNever,
                            .credits = credits,
                            .measure_every = measure_every};
    if (checkpoints) {
      options.mode.buffering.keep = Keep::input;
      options.mode.last_keeps_graph = false;
    }
    if (last_keeps_graph) options.mode.last_keeps_graph = *last_keeps_graph;
    if (options.mode.flushes()) options.flush_every = accumulation;
    if (flush_every > 0) options.flush_every = flush_every;
    return options;
  }
  // PyTorch's Nesterov, and weight decay where parameters decay.
  optim::Sgd optimizer(const nn::FlatParams& params) const {
    return {{.momentum = momentum, .nesterov = momentum > 0, .weight_decay = 5e-4},
            method::decay_segments(params)};
  }
};

// A mode, as it comes or with what is not its default: a last stage that rebuilds, checkpoints.
struct Variant {
  std::string name;
  std::string mode = name;
  std::optional<bool> last_keeps_graph = std::nullopt;
  bool checkpoints = false;

  Setting of(Setting setting) const {
    setting.mode = mode;
    setting.last_keeps_graph = last_keeps_graph;
    setting.checkpoints = checkpoints;
    return setting;
  }
};
inline std::vector<Variant> variants() {
  std::vector<Variant> variants = {
      {.name = "petra_rebuilt", .mode = "petra", .last_keeps_graph = false},
      {.name = "dsp_rebuilt", .mode = "dsp", .last_keeps_graph = false},
      {.name = "reversible_graph", .mode = "reversible", .last_keeps_graph = true},
      {.name = "gpipe_checkpoint", .mode = "gpipe", .checkpoints = true},
      {.name = "1f1b_checkpoint", .mode = "1f1b", .checkpoints = true}};
  for (const std::string& mode : pipeline_mode_names()) variants.push_back({.name = mode});
  return variants;
}

// One stage of a pipeline, trained by hand.
struct StageRank {
  StageRank(const Setting& of, comm::Group& group)
      : setting(of),
        model(of.make_model()),
        params(*model, 1,
               {.dtype = dtype_of(of.precision), .blocks = blocks_of(of.cut, group.rank())}),
        stream(std::make_shared<Examples>(*model), {.micro_batch = 4, .prefetch = 0}),
        engine({.model = *model, .params = params, .stream = stream, .stages = group},
               of.options()),
        optimizer(of.optimizer(params)),
        state(optimizer.make_state({0, params.size()}, params.values().options())) {
    at::set_num_threads(1);
  }

  method::Contribution step() {
    params.zero_gradients();
    const auto added = method::accumulate_exactly(engine, setting.accumulation);
    gradients.push_back(params.gradients().clone());
    if (setting.lr == 0) return added;  // nothing changes, the version neither
    optimizer.update({.gradient = params.gradients(),
                      .gradient_scale = 1.0 / static_cast<double>(setting.accumulation),
                      .lr = setting.lr,
                      .params_in = params.values(),
                      .params_out = params.values(),
                      .state_in = &state,
                      .state_out = &state});
    params.mark_changed();
    return added;
  }

  const Setting setting;
  std::unique_ptr<nn::Model> model;
  nn::FlatParams params;
  data::Stream stream;
  PipelineEngine engine;
  optim::Sgd optimizer;
  optim::State state;
  std::vector<at::Tensor> gradients;  // of each step, summed over its micro-batches
};

// Before a step: each stage is slow in a way of its own.
inline void dawdle(int stage, int64_t step) {
  std::this_thread::sleep_for(std::chrono::milliseconds((stage * 7 + step * 5) % 11));
}

// What a run came to, by stage.
struct Trajectory {
  std::vector<std::vector<at::Tensor>> values;     // after each step
  std::vector<std::vector<at::Tensor>> gradients;  // of each step
  std::vector<std::vector<int64_t>> staleness;     // largest of each step
  std::vector<at::Tensor> buffers;                 // at the end
  std::vector<double> losses;                      // of the last stage, by step: sums

  explicit Trajectory(int num_stages)
      : values(static_cast<size_t>(num_stages)),
        gradients(values.size()),
        staleness(values.size()),
        buffers(values.size()) {}
};

// Trains on as many threads as stages. before_step runs on each of them.
inline Trajectory train(const Setting& setting,
                        const std::function<void(int stage, int64_t step)>& before_step = {}) {
  Trajectory trajectory(setting.num_stages());
  std::mutex mutex;
  comm::run_local_ranks(setting.num_stages(), [&](comm::Group& group) {
    StageRank rank(setting, group);
    const auto stage = static_cast<size_t>(group.rank());
    for (int64_t s = 0; s < setting.steps; ++s) {
      if (before_step) before_step(group.rank(), s);
      const auto added = rank.step();
      trajectory.values[stage].push_back(rank.params.values().clone());
      trajectory.staleness[stage].push_back(added.staleness_max);
      if (added.num_losses > 0) {
        const std::lock_guard lock(mutex);
        trajectory.losses.push_back(added.loss_sum);
      }
    }
    rank.engine.pause();
    trajectory.gradients[stage] = rank.gradients;
    trajectory.buffers[stage] = rank.params.buffers().clone();
  });
  return trajectory;
}

// The tick semantics of the specification, section 3, in one process: messages sent in tick t are
// read in tick t + 1; in a tick all forward passes come first, then the backward passes, then the
// updates. Written from the specification without the engine's schedules, links and buffers: it
// keeps every input, rebuilds naively (inverse, then a second evaluation) and copies parameters in
// and out.
class TickSimulator {
 public:
  explicit TickSimulator(const Setting& setting) : setting_(setting), trajectory_(num_stages()) {
    at::set_num_threads(1);
    for (int j = 0; j < num_stages(); ++j) {
      stages_.push_back(std::make_unique<Simulated>(setting, j));
    }
    data_ = std::make_unique<data::Stream>(std::make_shared<Examples>(*stages_[0]->model),
                                           data::StreamOptions{.micro_batch = 4, .prefetch = 0});
  }

  // Until every stage has made its steps.
  const Trajectory& run() {
    for (int64_t t = 0; !is_over(); ++t) tick(t);
    for (size_t j = 0; j < stages_.size(); ++j) {
      trajectory_.buffers[j] = stages_[j]->params.buffers().clone();
    }
    return trajectory_;
  }
  // Of stage j: the tick of its first backward pass; most micro-batches between their passes.
  int64_t first_backward(size_t j) const { return stages_[j]->first_backward; }
  size_t fifo_peak(size_t j) const { return stages_[j]->fifo_peak; }

 private:
  struct Up {
    nn::Streams output;
    nn::Streams gradient;
  };
  struct Simulated {
    Simulated(const Setting& setting, int j)
        : model(setting.make_model()),
          params(*model, 1,
                 {.dtype = dtype_of(setting.precision), .blocks = blocks_of(setting.cut, j)}),
          optimizer(setting.optimizer(params)),
          state(optimizer.make_state({0, params.size()}, params.values().options())) {}

    std::unique_ptr<nn::Model> model;
    nn::FlatParams params;
    optim::Sgd optimizer;
    optim::State state;
    std::map<int64_t, std::vector<nn::Streams>> inputs;      // of every block, by micro-batch
    std::map<int64_t, at::Tensor> forward_values;            // parameters of the forward pass
    std::map<int64_t, nn::Streams> inbox_down, outbox_down;  // by micro-batch
    std::map<int64_t, Up> inbox_up, outbox_up;
    int64_t count = 0, steps = 0, first_backward = -1;
    size_t fifo_peak = 0;
    double loss = 0;
  };

  int num_stages() const { return setting_.num_stages(); }
  bool is_over() const {
    return std::ranges::all_of(stages_, [&](const auto& s) { return s->steps >= setting_.steps; });
  }
  // Which evaluation moves the statistics, and what the passes differentiate at.
  bool keeps_graph() const { return setting_.mode == "delayed"; }
  bool rebuilds() const {
    return setting_.mode == "petra" || setting_.mode == "reversible_stash" ||
           setting_.mode == "approx_input";
  }
  bool rebuilds_at_forward() const { return setting_.mode == "reversible_stash"; }
  bool differentiates_at_forward() const {
    return setting_.mode == "delayed" || setting_.mode == "pipedream" ||
           setting_.mode == "reversible_stash" || setting_.mode == "approx_input";
  }

  void tick(int64_t t) {
    const int64_t last = num_stages() - 1;
    for (int64_t j = 0; j <= last; ++j) {
      if (const int64_t m = t - j; m >= 0) forward(j, m);
    }
    for (int64_t j = 0; j <= last; ++j) {
      const int64_t m = j == last ? t - last : t - (2 * last - j);
      if (m >= 0) backward(j, m, t);
    }
    for (const auto& stage : stages_) update(*stage);
    for (int64_t j = 0; j <= last; ++j) {
      if (j < last) stages_[size_t(j + 1)]->inbox_down.merge(stages_[size_t(j)]->outbox_down);
      if (j > 0) stages_[size_t(j - 1)]->inbox_up.merge(stages_[size_t(j)]->outbox_up);
    }
  }

  nn::ForwardContext context(int64_t m, bool moves) const {
    return {.training = true, .seed = 1, .micro_batch = m, .moves_statistics = moves};
  }

  void forward(int64_t j, int64_t m) {
    Simulated& stage = *stages_[size_t(j)];
    if (j == 0) {
      batches_[m] = placed(data_->next(), {.dtype = dtype_of(setting_.precision),
                                           .channels_last = stage.model->prefers_channels_last()});
    }
    nn::Streams streams = j == 0 ? nn::Streams{.x = batches_[m].inputs} : stage.inbox_down.at(m);
    stage.inbox_down.erase(m);
    const at::NoGradGuard no_grad;
    const bool is_last = j == num_stages() - 1;
    nn::ForwardContext context = this->context(
        m, !is_last && (keeps_graph() || setting_.statistics_in == StatisticsIn::forward));
    for (size_t b = stage.params.blocks().begin; b < stage.params.blocks().end; ++b) {
      stage.inputs[m].push_back(streams);
      if (!is_last) streams = stage.model->blocks[b]->forward(streams, context);
      if (is_last) break;  // its one pass is made in backward
    }
    stage.forward_values[m] = stage.params.values().clone();
    stage.fifo_peak = std::max(stage.fifo_peak, stage.inputs.size());
    if (!is_last) stage.outbox_down[m] = streams;
  }

  void backward(int64_t j, int64_t m, int64_t t) {
    Simulated& stage = *stages_[size_t(j)];
    if (stage.first_backward < 0) stage.first_backward = t;
    const at::AutoGradMode grad_mode(true);
    Up up;
    if (j == num_stages() - 1) {
      nn::ForwardContext context = this->context(m, true);
      const nn::Streams leaves = nn::as_leaves(stage.inputs.at(m).front());
      nn::Streams streams = leaves;
      for (size_t b = stage.params.blocks().begin; b < stage.params.blocks().end; ++b) {
        streams = stage.model->blocks[b]->forward(streams, context);
      }
      const at::Tensor loss = stage.model->loss(streams.x, batches_.at(m).targets).loss;
      stage.loss += loss.item<double>();
      loss.backward();
      up = {.output = stage.inputs.at(m).front(), .gradient = nn::gradients_of(leaves)};
    } else {
      up = stage.inbox_up.at(m);
      stage.inbox_up.erase(m);
      go_back(stage, m, up);
    }
    stage.inputs.erase(m);
    stage.forward_values.erase(m);
    if (j > 0) stage.outbox_up[m] = up;
    ++stage.count;
  }

  // Where inputs are kept, a stage is one function F_j of its own input; where they are rebuilt, a
  // row of blocks.
  void go_back(Simulated& stage, int64_t m, Up& up) {
    if (!rebuilds()) {
      go_back_whole(stage, m, up);
      return;
    }
    for (size_t b = stage.params.blocks().end; b-- > stage.params.blocks().begin;) {
      nn::Block& block = *stage.model->blocks[b];
      nn::Streams input = stage.inputs.at(m)[b - stage.params.blocks().begin];
      auto* coupling = dynamic_cast<nn::Coupling*>(&block);
      if (coupling) {
        at_values(stage, m, rebuilds_at_forward(), [&] {
          nn::ForwardContext quiet = context(m, false);
          input = coupling->inverse(up.output, quiet);
        });
      }
      at_values(stage, m, differentiates_at_forward(), [&] {
        nn::ForwardContext context =
            this->context(m, setting_.statistics_in == StatisticsIn::backward);
        const nn::Streams leaves = nn::as_leaves(input);
        nn::backward(block.forward(leaves, context), up.gradient);
        up = {.output = input, .gradient = nn::gradients_of(leaves)};
      });
    }
  }

  void go_back_whole(Simulated& stage, int64_t m, Up& up) {
    at_values(stage, m, differentiates_at_forward(), [&] {
      nn::ForwardContext context =
          this->context(m, !keeps_graph() && setting_.statistics_in == StatisticsIn::backward);
      const nn::Streams leaves = nn::as_leaves(stage.inputs.at(m).front());
      nn::Streams streams = leaves;
      for (size_t b = stage.params.blocks().begin; b < stage.params.blocks().end; ++b) {
        streams = stage.model->blocks[b]->forward(streams, context);
      }
      nn::backward(streams, up.gradient);
      up = {.output = stage.inputs.at(m).front(), .gradient = nn::gradients_of(leaves)};
    });
  }

  // With the parameters of the forward pass of m in place, if asked for.
  static void at_values(Simulated& stage, int64_t m, bool at_forward,
                        const std::function<void()>& work) {
    const at::Tensor now = stage.params.values().clone();
    if (at_forward) stage.params.values().detach().copy_(stage.forward_values.at(m));
    work();
    if (at_forward) stage.params.values().detach().copy_(now);
  }

  void update(Simulated& stage) {
    if (stage.count < setting_.accumulation || stage.steps >= setting_.steps) return;
    if (setting_.lr > 0) {
      stage.optimizer.update({.gradient = stage.params.gradients(),
                              .gradient_scale = 1.0 / double(setting_.accumulation),
                              .lr = setting_.lr,
                              .params_in = stage.params.values(),
                              .params_out = stage.params.values(),
                              .state_in = &stage.state,
                              .state_out = &stage.state});
    }
    const auto j = size_t(index_of(stage));
    trajectory_.values[j].push_back(stage.params.values().clone());
    trajectory_.gradients[j].push_back(stage.params.gradients().clone());
    if (j + 1 == stages_.size()) trajectory_.losses.push_back(std::exchange(stage.loss, 0));
    stage.params.zero_gradients();
    stage.count = 0;
    ++stage.steps;
  }
  int index_of(const Simulated& stage) const {
    const auto found =
        std::ranges::find(stages_, &stage, [](const auto& pointer) { return pointer.get(); });
    return int(found - stages_.begin());
  }

  const Setting setting_;
  Trajectory trajectory_;
  std::vector<std::unique_ptr<Simulated>> stages_;
  std::unique_ptr<data::Stream> data_;
  std::map<int64_t, data::Batch> batches_;
};

}  // namespace outstep::engine::testing
