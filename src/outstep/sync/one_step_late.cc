#include "outstep/sync/one_step_late.h"

namespace outstep::sync {

OneStepLate::OneStepLate(Parts parts, NextGradient next, OverlappedOptions options)
    : Overlapped(parts, next == NextGradient::at_prediction ? "wp" : "dpu", options) {
  if (next == NextGradient::at_prediction) predicted_ = at::empty_like(shard_.values());
}

// The communication thread uses this class's members too.
OneStepLate::~OneStepLate() { rounds_.stop(); }

int64_t OneStepLate::communication_bytes() const {
  const int64_t of_prediction =
      predicted_.defined() ? static_cast<int64_t>(predicted_.nbytes()) : 0;
  return rounds_.communication_bytes() + of_prediction;
}

const at::Tensor* OneStepLate::prediction() const {
  return predicted_.defined() ? &predicted_ : nullptr;
}

void OneStepLate::run_rounds(method::GradientEngine& engine, const method::StepContext& context,
                             method::StepReport& report) {
  const bool is_start = !rounds_.pending();
  if (is_start) {
    rounds_.prime(engine, options_.length(context.accumulation, context.step).at_least);
  }
  const method::BuffersBeforeStep buffers = rounds_.buffers_before_pending();
  report.local = *rounds_.pending();
  if (!is_start) count_as_stale(report.local);
  report.round_micro_batches = {report.local.micro_batches};
  rounds_.run(
      engine, context,
      {.name = "commit",
       .length = options_.length(context.accumulation, context.step + 1),
       .policy = [this, context](const method::Reduced& all) { return commit(all, context); }});
  rounds_.put_back_buffers(buffers, judgement_);
}

at::Tensor OneStepLate::commit(const method::Reduced& all, const method::StepContext& context) {
  num_committed_ = all.micro_batches;
  judgement_ = judge(all.gradient, all.micro_batches, context, all.local);
  shard_.commit(all.gradient, judgement_, context.lr);
  if (!predicted_.defined()) return shard_.values();
  shard_.estimate(all.gradient, judgement_, context.lr, predicted_);
  return predicted_;
}

}  // namespace outstep::sync
