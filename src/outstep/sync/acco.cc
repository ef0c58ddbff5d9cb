#include "outstep/sync/acco.h"

#include "outstep/base/errors.h"

namespace outstep::sync {

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
  options.synchronous_steps = section.integer("synchronous_steps", 0, {.min = 0});
  return options;
}

Acco::Acco(Parts parts, AccoOptions options)
    : parts_(parts),
      options_(options),
      shard_(parts, "acco"),
      gradient_(at::empty_like(shard_.values())),
      rounds_(parts.params, parts.group,
              {.name = "acco",
               .wire = options.overlapped.wire,
               .parameter_wire = options.overlapped.live,
               .on_nonfinite = options.overlapped.on_nonfinite}) {}

const std::string& Acco::name() const {
  static const std::string kName = "acco";
  return kName;
}

int64_t Acco::communication_bytes() const {
  return rounds_.communication_bytes() + static_cast<int64_t>(gradient_.nbytes());
}

method::Traffic Acco::planned_traffic() const {
  const method::Traffic round = rounds_.traffic();
  return {.bytes_sent = 2 * round.bytes_sent, .overlapped_bytes = 2 * round.overlapped_bytes};
}

method::StepReport Acco::step(method::GradientEngine& engine, const method::StepContext& context) {
  method::StepReport report{.lr = context.lr};
  const int64_t bytes_before = parts_.group.bytes_sent();
  shard_.take(parts_.params);
  if (context.step < options_.synchronous_steps && !rounds_.pending()) {
    wait_for_commit(engine, context, report);
  } else {
    overlap(engine, context, report);
  }
  report.micro_batches_total = num_reduced_;
  report.estimate_share = static_cast<double>(num_estimated_) / static_cast<double>(num_reduced_);
  report.bytes_sent = parts_.group.bytes_sent() - bytes_before;
  tell(report, rounds_, judgement_);
  return report;
}

void Acco::wait_for_commit(method::GradientEngine& engine, const method::StepContext& context,
                           method::StepReport& report) {
  num_reduced_ = num_estimated_ = 0;
  rounds_.prime(engine, context.accumulation);
  report.local = *rounds_.pending();
  report.round_micro_batches = {report.local.micro_batches};
  rounds_.run_alone(context,
                    [this, context](const method::Reduced& all) { return commit(all, context); });
}

void Acco::overlap(method::GradientEngine& engine, const method::StepContext& context,
                   method::StepReport& report) {
  const int64_t num_first = options_.estimate_micro_batches;
  const auto first_half = options_.overlapped.length(num_first);
  const auto second_half = options_.overlapped.length(context.accumulation - num_first);
  const bool is_start = !rounds_.pending();
  if (is_start) rounds_.prime(engine, first_half.at_least);
  const method::BuffersBeforeStep buffers = rounds_.buffers_before_pending();
  method::Contribution first = *rounds_.pending();
  const method::Contribution second =
      rounds_.run(engine, context, second_half,
                  [this, context](const method::Reduced& half) { return estimate(half, context); });
  rounds_.run(engine, context, first_half,
              [this, context](const method::Reduced& half) { return commit(half, context); });
  rounds_.put_back_buffers(buffers, judgement_);
  if (!is_start) {  // the commit before this one came between
    first.staleness_sum += static_cast<double>(first.micro_batches);
    first.staleness_max = std::max<int64_t>(first.staleness_max, 1);
  }
  report.round_micro_batches = {first.micro_batches, second.micro_batches};
  report.local = first;
  report.local += second;
}

at::Tensor Acco::estimate(const method::Reduced& half, const method::StepContext& context) {
  gradient_.copy_(half.gradient);
  num_reduced_ = num_estimated_ = half.micro_batches;
  const auto judgement = method::judge(rounds_.squared_norm(gradient_, context.step), num_reduced_,
                                       context, options_.overlapped.on_nonfinite, half.local);
  shard_.estimate(gradient_, judgement, context.lr * options_.estimate_scale, half.gradient);
  return half.gradient;
}

at::Tensor Acco::commit(const method::Reduced& half, const method::StepContext& context) {
  if (num_reduced_ > 0) {
    gradient_.add_(half.gradient);
  } else {
    gradient_.copy_(half.gradient);
  }
  num_reduced_ += half.micro_batches;
  judgement_ = method::judge(rounds_.squared_norm(gradient_, context.step), num_reduced_, context,
                             options_.overlapped.on_nonfinite, half.local);
  return shard_.commit(gradient_, judgement_, context.lr);
}

void Acco::pause(const method::StepContext& context) {
  rounds_.settle(context);
  if (options_.overlapped.live != comm::Wire::exact && rounds_.pending()) {
    rounds_.gather(shard_.values());
  }
}

void Acco::resume() {
  // Parameters of the start are exact until the first round.
  if (rounds_.pending()) round_as_gathered(parts_.params.values(), options_.overlapped.live);
}

void Acco::save(io::StateWriter& writer) const {
  shard_.save(writer, parts_.params.size());
  rounds_.save(writer);
}

void Acco::load(io::StateReader& reader) {
  shard_.load(reader, parts_.params.size());
  rounds_.load(reader);
}

}  // namespace outstep::sync
