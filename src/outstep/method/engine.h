#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "outstep/data/stream.h"
#include "outstep/io/state.h"
#include "outstep/nn/block.h"
#include "outstep/nn/flat_params.h"
#include "outstep/nn/model.h"

namespace outstep::method {

// What one or several calls of accumulate added. Sums, so that they can be added up.
struct Contribution {
  int64_t micro_batches = 0;
  int64_t samples = 0;
  int64_t units = 0;       // tokens or images
  double loss_sum = 0;     // sum of mean losses of the micro-batches whose loss this rank has
  int64_t num_losses = 0;  // how many these are
  double staleness_sum =
      0;  // updates between reading parameters and applying the gradient, summed over micro-batches
  int64_t staleness_max = 0;

  Contribution& operator+=(const Contribution& other);

  // As numbers, to be sent or saved.
  static constexpr int kNumValues = 7;
  std::vector<double> to_values() const;
  static Contribution from_values(std::span<const double> values);
};

// Sums over the evaluated examples.
struct Evaluation {
  double loss_sum = 0;  // over units
  int64_t units = 0;
  int64_t correct = 0;  // units whose class or token was hit

  double loss() const { return units > 0 ? loss_sum / static_cast<double>(units) : 0; }
  double accuracy() const {
    return units > 0 ? static_cast<double>(correct) / static_cast<double>(units) : 0;
  }
};

// Of logits for targets, on one device.
Evaluation score(const nn::Model& model, const at::Tensor& logits, const at::Tensor& targets);

// What an engine measured since it was asked last: beside contributions, for metrics.
struct EngineReport {
  bool is_stage = false;    // of a pipeline: only then there is more to say
  double idle_seconds = 0;  // waited for other stages
  int64_t bytes_sent = 0;   // to other stages
  int64_t kept_bytes = 0;   // at most, of micro-batches between their two passes
  // Where a measurement was due: the largest ‖x̂ - x‖ / ‖x‖ of the inputs that the stage rebuilt,
  // and the cosine between the gradient of its parameters and the exact one.
  std::optional<double> reconstruction_error = std::nullopt;
  std::optional<double> gradient_alignment = std::nullopt;
};

// Called during a backward pass when [begin, end) of the flat gradient is final: while it is set,
// every call of accumulate announces each element of the flat vector exactly once,
// padding included, in an order of its own. What the callback throws comes out of accumulate.
using RangeCallback = std::function<void(int64_t begin, int64_t end)>;

// Called during a forward pass before [begin, end) of the flat vector is read: while it is set,
// accumulate announces all that it is about to read, and reads nothing before. A range may come
// several times. What the callback throws comes out of accumulate.
using NeedCallback = std::function<void(int64_t begin, int64_t end)>;

// Turns data into gradients of the parameters this rank owns. One thread calls it.
class GradientEngine : public io::Stateful {
 public:
  // Adds the next micro-batch's gradient, at the live parameters, to the flat gradient (the
  // gradient of the mean loss of the micro-batch: a sum over calls). A pipeline stage makes as many
  // forward passes first as it takes to have one micro-batch come back.
  virtual Contribution accumulate() = 0;
  // Between two steps, on all ranks, before parameters are evaluated or saved: what is on its way
  // between stages arrives, to be gone on with afterwards. Changes nothing that follows.
  virtual void pause() {}
  virtual EngineReport take_report() { return {}; }
  // A forward pass at the live parameters over one batch, without graph: its logits. Of several
  // stages the last one has them, the others nothing (an undefined tensor). context: by default a
  // plain pass, as for evaluation; seed and micro-batch are the engine's to fill in.
  virtual at::Tensor predict(const data::Batch& batch, nn::ForwardContext context) = 0;
  // What logits for the batch are worth; on a rank that has some.
  virtual Evaluation score(const at::Tensor& logits, const data::Batch& batch) = 0;
  // Both. Of several stages the last one has the result, the others nothing.
  Evaluation evaluate(const data::Batch& batch);
  // Tells a synchronizer that overlaps with backward that a flat range is final. Set before the
  // last accumulate of a step, null to unset.
  virtual void on_range_ready(RangeCallback callback) = 0;
  // Lets a synchronizer bring parameters while the forward pass already runs on others. Set before
  // the first accumulate after an update, null to unset.
  virtual void on_range_needed(NeedCallback callback) = 0;
  virtual nn::FlatParams& params() = 0;
};

}  // namespace outstep::method
