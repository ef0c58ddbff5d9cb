#include "outstep/sync/overlapped.h"

#include "outstep/base/errors.h"
#include "outstep/method/traffic.h"

namespace outstep::sync {

OverlappedOptions OverlappedOptions::read(io::Section& section) {
  OverlappedOptions options;
  options.has_fixed_counts =
      section.text("counts", "dynamic", {.choices = {"dynamic", "fixed"}}) == "fixed";
  options.k_min = section.integer("k_min", options.k_min, {.min = 1});
  options.k_max = section.integer("k_max", options.k_max, {.min = 0});
  options.wire = method::read_wire(section);
  options.live = section.text("live", "fp32", {.choices = {"fp32", "bf16"}}) == "bf16"
                     ? comm::Wire::bf16
                     : comm::Wire::exact;
  options.on_nonfinite = method::read_on_nonfinite(section);
  if (options.k_max > 0 && options.k_max < options.k_min) {
    throw ConfigError("{}: sync.k_max is {}, below sync.k_min = {}; 0 is no bound",
                      section.origin("k_max"), options.k_max, options.k_min);
  }
  const char* bound = options.k_max > 0 ? "k_max" : options.k_min > 1 ? "k_min" : nullptr;
  if (options.has_fixed_counts && bound) {
    throw ConfigError(
        "{}: sync.{} bounds dynamic counts; with sync.counts = \"fixed\" it is "
        "train.accumulation that says how many micro-batches a step has",
        section.origin(bound), bound);
  }
  return options;
}

method::RoundLength OverlappedOptions::length(int64_t count) const {
  if (has_fixed_counts) return {.at_least = count, .is_fixed = true};
  return {.at_least = k_min, .at_most = k_max};
}

void tell(method::StepReport& report, method::Rounds& rounds, const method::Judgement& judgement) {
  report.grad_norm = judgement.norm;
  report.is_skipped = judgement.is_skipped;
  const auto times = rounds.take_times();
  report.communication_seconds = times.communication_seconds;
  report.exposed_seconds = times.exposed_seconds;
}

void round_as_gathered(const at::Tensor& live, comm::Wire wire) {
  if (wire == comm::Wire::bf16) at::Tensor(live).copy_(live.to(at::kBFloat16));
}

Shard::Shard(const Parts& parts, const std::string& sync) : optimizer_(parts.optimizer) {
  if (!parts.optimizer.cuts_anywhere()) {
    throw ConfigError(
        "sync \"{}\" shards the optimizer at any element, but optimizer \"{}\" can only be cut at "
        "tensor borders; use sync \"ddp\"",
        sync, parts.optimizer.name());
  }
  const comm::Shards shards = method::shards_of(parts.params, parts.group);
  const int rank = parts.group.rank();
  state_ = parts.optimizer.make_state({shards.begin(rank), shards.end(rank)},
                                      parts.params.values().device());
  values_ = at::empty({state_.range.size()}, parts.params.values().options());
}

void Shard::take(const nn::FlatParams& params) {
  if (is_known_) return;
  values_.copy_(params.values().narrow(0, state_.range.begin, state_.range.size()));
  is_known_ = true;
}

const at::Tensor& Shard::commit(const at::Tensor& gradient, const method::Judgement& judgement,
                                double lr) {
  if (judgement.is_skipped) return values_;
  optimizer_.update({.gradient = gradient,
                     .gradient_scale = judgement.scale,
                     .lr = lr,
                     .params_in = values_,
                     .params_out = values_,
                     .state_in = &state_,
                     .state_out = &state_});
  return values_;
}

void Shard::estimate(const at::Tensor& gradient, const method::Judgement& judgement, double lr,
                     const at::Tensor& out) const {
  if (judgement.is_skipped) {
    out.copy_(values_);
    return;
  }
  optimizer_.update({.gradient = gradient,
                     .gradient_scale = judgement.scale,
                     .lr = lr,
                     .params_in = values_,
                     .params_out = out,
                     .state_in = &state_,
                     .state_out = nullptr});
}

int64_t Shard::num_bytes() const {
  return state_.num_bytes() + static_cast<int64_t>(values_.nbytes());
}

void Shard::load(io::StateReader& reader, int64_t total) {
  state_.load(reader, total);
  is_known_ = false;
}

}  // namespace outstep::sync
