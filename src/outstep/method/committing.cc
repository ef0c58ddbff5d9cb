#include "outstep/method/committing.h"

#include <cmath>

#include "outstep/base/errors.h"

namespace outstep::method {

ConfigError finished_too_many(int64_t finished, int64_t asked_for) {
  return ConfigError(
      "the engine finished {} micro-batches where the sync asked for {}; set train.accumulation "
      "to a multiple of what the engine finishes at once",
      finished, asked_for);
}

Contribution accumulate_exactly(GradientEngine& engine, int64_t count,
                                const std::function<void()>& before_last) {
  check(count > 0, "a step has at least one micro-batch");
  Contribution total;
  bool is_announced = false;
  while (total.micro_batches < count) {
    if (before_last && !is_announced && total.micro_batches == count - 1) {
      before_last();
      is_announced = true;
    }
    total += engine.accumulate();
  }
  if (total.micro_batches > count) throw finished_too_many(total.micro_batches, count);
  return total;
}

comm::Shards shards_of(int64_t size, const comm::Group& group) {
  return {.total = size, .count = group.size(), .grain = optim::kNormGrain};
}

comm::Shards shards_of(const nn::FlatParams& params, const comm::Group& group) {
  return shards_of(params.size(), group);
}

void require_cuts_anywhere(const optim::Optimizer& optimizer, const std::string& sync) {
  if (optimizer.cuts_anywhere()) return;
  throw ConfigError(
      "sync \"{}\" shards the optimizer at any element, but optimizer \"{}\" can only be cut at "
      "tensor borders; use sync \"ddp\"",
      sync, optimizer.name());
}

OnNonfinite read_on_nonfinite(io::Section& section) {
  const std::string choice = section.text("on_nonfinite", "fail", {.choices = {"fail", "skip"}});
  return choice == "skip" ? OnNonfinite::skip : OnNonfinite::fail;
}

BuffersBeforeStep::BuffersBeforeStep(const nn::FlatParams& params, OnNonfinite on_nonfinite)
    : live_(params.buffers()) {
  if (on_nonfinite == OnNonfinite::skip && live_.numel() > 0) copy_ = live_.clone();
}

void BuffersBeforeStep::put_back_if_skipped(const Judgement& judgement) const {
  if (judgement.is_skipped && copy_.defined()) live_.copy_(copy_);
}

Judgement judge(const optim::ExactSum& squared_norm, int64_t count, const StepContext& context,
                OnNonfinite on_nonfinite, const Contribution& local) {
  const double mean = 1 / static_cast<double>(count);
  Judgement judgement{.norm = std::sqrt(squared_norm.to_double()) * mean};
  if (std::isfinite(judgement.norm)) {
    judgement.scale = mean * optim::clip_factor(judgement.norm, context.clip_norm);
    return judgement;
  }
  judgement.is_skipped = true;
  if (on_nonfinite == OnNonfinite::skip) return judgement;
  const double loss =
      local.num_losses > 0 ? local.loss_sum / static_cast<double>(local.num_losses) : std::nan("");
  throw ConfigError(
      "the gradient of step {} is not finite (this rank's mean loss: {:g}): training has diverged. "
      "Lower optimizer.lr, lengthen schedule.warmup_steps or set train.clip_norm; or drop such "
      "steps with sync.on_nonfinite = \"skip\"",
      context.step, loss);
}

void apply(const optim::Optimizer& optimizer, nn::FlatParams& params, optim::State& state,
           const Judgement& judgement, double lr, const StepContext& context) {
  if (judgement.is_skipped) return;
  const trace::Span span(context.tracer, trace::Track::compute, "update", {.step = context.step});
  const auto own = [&](const at::Tensor& vector) {
    return vector.narrow(0, state.range.begin, state.range.size());
  };
  optimizer.update({.gradient = own(params.gradients()),
                    .gradient_scale = judgement.scale,
                    .lr = lr,
                    .params_in = own(params.values()),
                    .params_out = own(params.values()),
                    .state_in = &state,
                    .state_out = &state});
  params.mark_changed();
}

}  // namespace outstep::method
