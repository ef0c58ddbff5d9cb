#pragma once

#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "outstep/base/trace.h"
#include "outstep/data/stream.h"
#include "outstep/engine/precision.h"
#include "outstep/io/settings.h"
#include "outstep/method/engine.h"
#include "outstep/method/layout.h"
#include "outstep/nn/flat_params.h"
#include "outstep/nn/model.h"

namespace outstep::engine {

struct BackpropOptions {
  Precision precision = Precision::fp32;
  std::optional<bool> channels_last =
      std::nullopt;   // of image batches; nothing said: as the model prefers
  uint64_t seed = 1;  // of the run: keys dropout
  trace::Tracer* tracer = nullptr;

  // Reads precision and channels_last ("auto", "yes" or "no") of [engine].
  static BackpropOptions read(io::Section& section);
};

// Ordinary back-propagation of the whole model: one accumulate is one micro-batch forward and
// backward, lockstep, without staleness. A loss that is not finite is passed on as it is; the
// synchronizer judges the gradient.
//
// Borrows model, parameters and stream. Writes: the flat gradient and the buffers (batch norm's
// running statistics). One thread calls it. Range callbacks run on that thread for a model on the
// CPU; for one on a CUDA device on autograd's thread of that device, one after another, while
// accumulate waits. There a range is final in the order of the device's stream: what is to read it
// must be queued behind that, or wait for the stream.
class BackpropEngine : public method::GradientEngine {
 public:
  BackpropEngine(nn::Model& model, nn::FlatParams& params, data::Stream& stream,
                 BackpropOptions options);
  ~BackpropEngine() override;
  BackpropEngine(const BackpropEngine&) = delete;
  BackpropEngine& operator=(const BackpropEngine&) = delete;

  method::Contribution accumulate() override;
  at::Tensor predict(const data::Batch& batch, nn::ForwardContext context) override;
  method::Evaluation score(const at::Tensor& logits, const data::Batch& batch) override;
  void on_range_ready(method::RangeCallback callback) override;
  void on_range_needed(method::NeedCallback callback) override { needs_ = std::move(callback); }
  nn::FlatParams& params() override { return params_; }

  // The stream's place, and this replica's buffers as a local entry: another number of replicas
  // goes on from the buffers of the model file, their mean.
  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

 private:
  class ReadyHook;

  at::Tensor forward(const data::Batch& batch);
  void backward(const at::Tensor& loss);
  void install_hooks();
  void announce(size_t parameter) noexcept;

  nn::Model& model_;
  nn::FlatParams& params_;
  data::Stream& stream_;
  BackpropOptions options_;
  const BatchForm form_;
  std::vector<optim::Range> ranges_;  // by parameter

  method::RangeCallback callback_;
  method::NeedCallback needs_;
  bool has_hooks_ = false;
  std::vector<bool> is_announced_;  // by parameter, in the present backward pass
  std::exception_ptr callback_error_;
};

}  // namespace outstep::engine
