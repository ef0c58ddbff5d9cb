#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "outstep/base/trace.h"
#include "outstep/data/stream.h"
#include "outstep/engine/pipeline/link.h"
#include "outstep/engine/pipeline/mode.h"
#include "outstep/engine/pipeline/schedule.h"
#include "outstep/engine/pipeline/stage.h"
#include "outstep/engine/precision.h"
#include "outstep/io/settings.h"
#include "outstep/method/engine.h"
#include "outstep/optim/optimizer.h"

// One stage of a model that is cut into several, one a rank, and every schedule for it.
//
// A call of accumulate makes passes in the order of the schedule until a backward pass is done,
// which adds one micro-batch's gradient. With a schedule that flushes, nothing is in flight between
// two steps. With ticks (petra, delayed, …) the pipeline never empties: when the parameters of a
// stage change, micro-batches are in flight that went forward with the former ones. That the order
// of passes is fixed makes ticks exact: what a stage computes depends on how many passes it has
// made, never on the clock.
// Where stages run freely (credits) the order follows what arrives first.
//
// Buffers (J stages, stage j from 0):
//   parameters, gradient   the stage's own; written between two calls, read during one
//   kept micro-batches     2 (J-1-j) + 1 at most with ticks; what of each, says Buffering (mode.h)
//   one message ahead      from each neighbour, received on the links' threads
//   tensors being sent     until they have arrived; nobody writes what was handed on
//
// Source: PETRA, arXiv 2406.02052, Eq. 5 and Algorithm 1.

namespace outstep::engine {

struct PipelineOptions {
  Mode mode = {};
  Precision precision = Precision::fp32;
  std::optional<bool> channels_last = std::nullopt;  // nothing said: as the model prefers
  StatisticsIn statistics_in = StatisticsIn::backward;
  // Micro-batches after which nothing is in flight: a step's for a schedule that flushes.
  int64_t flush_every = Program::kNever;
  uint64_t seed = 1;
  // Micro-batches that may be in flight where stages run freely; 0: they go in ticks. The first
  // stage begins another as long as there are fewer; any stage goes back as soon as it can, else
  // forward. What is computed then depends on the clock, and staleness is at most as many less one.
  int64_t credits = 0;
  // Ticks after which the stage's parameters, buffers and losses are written to record_folder, as
  // tick-000027-stage-1.safetensors; the folder is there. To hold a trajectory against another
  // implementation's.
  std::vector<int64_t> record_ticks = {};
  std::string record_folder = "";
  // Measures reconstruction error and gradient alignment of the first micro-batch of every so many,
  // which costs that one micro-batch another pass and a pause. 0: never.
  int64_t measure_every = 0;
  trace::Tracer* tracer = nullptr;

  // Reads precision, channels_last, batch_norm, checkpoint, last_stage, pace, credits, flush_every,
  // record_ticks, record_folder and measure_every (steps) of [engine].
  // accumulation: micro-batches of a step. Throws ConfigError.
  static PipelineOptions read(io::Section& section, const std::string& name, int64_t accumulation,
                              int num_stages);
};

// What a stage is made of. All borrowed; they outlive it.
struct StageParts {
  nn::Model& model;        // the whole of it
  nn::FlatParams& params;  // of this stage's blocks
  data::Stream& stream;  // drawn by the first stage, for its inputs, and the last, for its targets
  comm::Group& stages;   // of this pipeline, in order; for this engine alone
};

class PipelineEngine : public method::GradientEngine {
 public:
  PipelineEngine(const StageParts& parts, PipelineOptions options);
  ~PipelineEngine() override;

  method::Contribution accumulate() override;
  // Every stage is given the batch; the last one returns the result, the others nothing.
  at::Tensor predict(const data::Batch& batch, nn::ForwardContext context) override;
  method::Evaluation score(const at::Tensor& logits, const data::Batch& batch) override;
  void pause() override;
  method::EngineReport take_report() override;
  void on_range_ready(method::RangeCallback callback) override;
  void on_range_needed(method::NeedCallback callback) override { needs_ = std::move(callback); }
  nn::FlatParams& params() override { return parts_.params; }

  const Stage& stage() const { return stage_; }
  const Schedule& schedule() const { return schedule_; }

  // The stream's place, buffers, and all that is in flight, as local entries: another number of
  // replicas goes on with an empty pipeline.
  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

 private:
  // A micro-batch between its two passes here.
  struct Passing {
    int64_t micro_batch = 0;
    int64_t num_samples = 0;
    int64_t num_units = 0;
    double loss = 0;  // of a last stage
  };

  bool is_first() const { return !previous_; }
  bool is_last() const { return !next_; }
  bool is_free() const { return options_.credits > 0; }
  Action::Kind next_kind();
  Action::Kind first_to_come();
  void forward();
  method::Contribution backward();
  Message receive_or_draw();
  at::Tensor draw_targets(const Message& inputs);
  void require_same_size(const Message& message, const data::Batch& own) const;
  data::Batch draw();
  int64_t kind() const;
  bool is_measured(int64_t number) const {
    return options_.measure_every > 0 && number % options_.measure_every == 0;
  }
  at::Tensor exact_gradient();
  void conclude_measurement();
  void record(int64_t tick);
  void announce(size_t block);
  void announce_rest();

  StageParts parts_;
  const PipelineOptions options_;
  const BatchForm form_;
  const Schedule schedule_;
  const bool previous_wants_input_;
  Program program_;
  Stage stage_;
  Bell bell_;  // of both links
  std::optional<Link> previous_;
  std::optional<Link> next_;
  std::deque<Passing> passing_;
  bool is_stream_to_be_set_ = false;  // the first micro-batch that arrives tells where
  // Of the activations that come next; unknown: whichever comes first.
  std::optional<int64_t> next_arriving_;
  int64_t peak_kept_bytes_ = 0;
  std::vector<double> losses_to_record_;  // of a last stage, since the last record
  int64_t bytes_reported_ = 0;
  double idle_seconds_ = 0;  // waited for either neighbour, since it was reported
  // While a micro-batch is measured: its exact gradient, and what was in the flat one before it.
  struct Measurement {
    at::Tensor exact, before;
  };
  std::optional<Measurement> measurement_;
  std::optional<double> alignment_;  // measured since it was reported
  std::optional<double> reconstruction_error_;

  method::RangeCallback callback_;
  method::NeedCallback needs_;
  std::vector<optim::Range> block_ranges_;  // of the flat vector, by block of the stage
  std::vector<bool> is_announced_;          // by block, in the present backward pass
};

}  // namespace outstep::engine
