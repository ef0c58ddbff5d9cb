#include "outstep/sync/acco.h"

#include "outstep/base/errors.h"

namespace outstep::sync {
namespace {

method::DifferenceFormat read_format(io::Section& section) {
  const std::string dtype =
      section.text("estimate_dtype", "fp32", {.choices = {"fp32", "bf16", "int8"}});
  if (dtype == "fp32") return method::DifferenceFormat::none;
  return dtype == "bf16" ? method::DifferenceFormat::bf16 : method::DifferenceFormat::int8;
}

}  // namespace

AccoOptions AccoOptions::read(io::Section& section, int64_t accumulation) {
  AccoOptions options{.overlapped = OverlappedOptions::read(section)};
  const bool is_fixed = options.overlapped.has_fixed_counts;
  if (is_fixed && accumulation < 2) {
    throw ConfigError(
        "sync \"acco\" makes a step of two halves, and train.accumulation is {}; set it to 2 or "
        "more (with half the engine.micro_batch a step has as many samples), or sync.counts to "
        "\"dynamic\"",
        accumulation);
  }
  const int64_t half = std::max<int64_t>(accumulation / 2, 1);
  options.estimate_micro_batches = section.integer(
      "estimate_micro_batches", half, {.min = 1, .max = std::max<int64_t>(accumulation - 1, 1)});
  if (!is_fixed && options.estimate_micro_batches != half) {
    throw ConfigError(
        "{}: sync.estimate_micro_batches is for fixed counts; dynamic ones are what fits into a "
        "round",
        section.origin("estimate_micro_batches"));
  }
  options.estimate_scale = section.number("estimate_scale", 1, {.min = 0, .max = 4});
  options.estimate_format = read_format(section);
  options.synchronous_steps = section.integer("synchronous_steps", 0, {.min = 0});
  return options;
}

// The estimate half leaves something to the other.
int64_t AccoOptions::num_estimated(int64_t accumulation) const {
  return std::min(estimate_micro_batches, std::max<int64_t>(accumulation - 1, 1));
}

method::RoundLength AccoOptions::first_half(int64_t accumulation, int64_t step) const {
  return overlapped.length(num_estimated(accumulation), step, 0);
}

method::RoundLength AccoOptions::second_half(int64_t accumulation, int64_t step) const {
  return overlapped.length(accumulation - num_estimated(accumulation), step, 1);
}

Acco::Acco(Parts parts, AccoOptions options)
    : Overlapped(parts, "acco", options.overlapped, options.estimate_format),
      acco_(options),
      gradient_(at::empty_like(shard_.values())) {}

// The communication thread uses this class's members too.
Acco::~Acco() { rounds_.stop(); }

int64_t Acco::communication_bytes() const {
  return rounds_.communication_bytes() + static_cast<int64_t>(gradient_.nbytes());
}

method::Traffic Acco::planned_traffic() const {
  method::Traffic traffic = rounds_.traffic();
  const method::Traffic estimate = rounds_.traffic(true);
  traffic.round_bytes = {estimate.bytes_sent, traffic.bytes_sent};
  traffic.bytes_sent += estimate.bytes_sent;
  traffic.overlapped_bytes += estimate.overlapped_bytes;
  return traffic;
}

void Acco::run_rounds(method::GradientEngine& engine, const method::StepContext& context,
                      method::StepReport& report) {
  num_estimated_ = 0;
  if (context.step < acco_.synchronous_steps && !rounds_.pending()) {
    wait_for_commit(engine, context, report);
  } else {
    overlap(engine, context, report);
  }
  report.estimate_share = static_cast<double>(num_estimated_) / static_cast<double>(num_committed_);
}

void Acco::wait_for_commit(method::GradientEngine& engine, const method::StepContext& context,
                           method::StepReport& report) {
  rounds_.prime(engine, context.accumulation);
  const method::BuffersBeforeStep buffers = rounds_.buffers_before_pending();
  report.local = *rounds_.pending();
  report.round_micro_batches = {report.local.micro_batches};
  rounds_.run_alone(context, commit_round({}, context));
  rounds_.put_back_buffers(buffers, judgement_);
}

void Acco::overlap(method::GradientEngine& engine, const method::StepContext& context,
                   method::StepReport& report) {
  const auto second_half = acco_.second_half(context.accumulation, context.step);
  const auto next_first_half = acco_.first_half(context.accumulation, context.step + 1);
  const bool is_start = !rounds_.pending();
  if (is_start) {
    rounds_.prime(engine, acco_.first_half(context.accumulation, context.step).at_least);
  }
  const method::BuffersBeforeStep buffers = rounds_.buffers_before_pending();
  method::Contribution first = *rounds_.pending();
  const method::Contribution second =
      rounds_.run(engine, context, estimate_round(second_half, context));
  rounds_.run(engine, context, commit_round(next_first_half, context));
  rounds_.put_back_buffers(buffers, judgement_);
  if (!is_start) count_as_stale(first);
  report.round_micro_batches = {first.micro_batches, second.micro_batches};
  report.local = first;
  report.local += second;
}

method::Rounds::Round Acco::estimate_round(const method::RoundLength& length,
                                           const method::StepContext& context) {
  return {
      .name = "estimate",
      .length = length,
      .gathers_estimate = true,
      .policy = [this, context](const method::Reduced& half) { return estimate(half, context); }};
}

method::Rounds::Round Acco::commit_round(const method::RoundLength& length,
                                         const method::StepContext& context) {
  return {.name = "commit",
          .length = length,
          .policy = [this, context](const method::Reduced& half) { return commit(half, context); }};
}

at::Tensor Acco::estimate(const method::Reduced& half, const method::StepContext& context) {
  gradient_.copy_(half.gradient);
  num_estimated_ = half.micro_batches;
  const auto judgement = judge(gradient_, num_estimated_, context, half.local);
  shard_.estimate(gradient_, judgement, context.lr * acco_.estimate_scale, half.gradient);
  return half.gradient;
}

at::Tensor Acco::commit(const method::Reduced& half, const method::StepContext& context) {
  if (num_estimated_ > 0) {
    gradient_.add_(half.gradient);
  } else {
    gradient_.copy_(half.gradient);
  }
  num_committed_ = num_estimated_ + half.micro_batches;
  judgement_ = judge(gradient_, num_committed_, context, half.local);
  return shard_.commit(gradient_, judgement_, context.lr);
}

}  // namespace outstep::sync
