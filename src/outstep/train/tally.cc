#include "outstep/train/tally.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/base/memory.h"

namespace outstep::train {
namespace {

double ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

}  // namespace

StepTotals StepTotals::of(const StepRecord& record, bool is_last_stage) {
  const method::Contribution& local = record.report.local;
  StepTotals totals{.contribution = local,
                    .num_passes = local.micro_batches,
                    .num_stop_wishes = record.wants_to_stop ? 1 : 0};
  if (!is_last_stage) {
    totals.contribution = {.staleness_sum = local.staleness_sum,
                           .staleness_max = local.staleness_max};
  }
  return totals;
}

std::vector<double> StepTotals::to_values() const {
  std::vector<double> values = contribution.to_values();
  values.push_back(static_cast<double>(num_passes));
  values.push_back(static_cast<double>(num_stop_wishes));
  return values;
}

StepTotals StepTotals::from_values(std::span<const double> values) {
  check(std::ssize(values) == kNumValues, "a step's totals are as many values as were sent");
  return {.contribution =
              method::Contribution::from_values(values.first(method::Contribution::kNumValues)),
          .num_passes = static_cast<int64_t>(values[method::Contribution::kNumValues]),
          .num_stop_wishes = static_cast<int64_t>(values.back())};
}

StepTotals& StepTotals::operator+=(const StepTotals& other) {
  contribution += other.contribution;
  num_passes += other.num_passes;
  num_stop_wishes += other.num_stop_wishes;
  return *this;
}

void Tally::add(const StepRecord& record, const StepTotals& totals) {
  const method::StepReport& report = record.report;
  ++num_steps_;
  num_skipped_ += report.is_skipped ? 1 : 0;
  seconds_ += record.seconds;
  all_ += totals.contribution;
  own_ += report.local;
  num_passes_ += totals.num_passes;
  bytes_sent_ += report.bytes_sent + record.engine.bytes_sent + record.mix.bytes_sent;
  stage_idle_seconds_ += record.engine.idle_seconds;
  kept_bytes_ = std::max(kept_bytes_, record.engine.kept_bytes);
  is_stage_ = is_stage_ || record.engine.is_stage;
  if (record.engine.reconstruction_error) last_error_ = record.engine.reconstruction_error;
  if (record.engine.gradient_alignment) last_alignment_ = record.engine.gradient_alignment;
  communication_seconds_ += report.communication_seconds + record.mix.communication_seconds;
  idle_seconds_ += report.idle_seconds + record.mix.idle_seconds;
  mix_bytes_sent_ += record.mix.bytes_sent;
  mixed_fractions_ += record.mixed_fraction;
  last_lr_ = report.lr;
  last_grad_norm_ = report.grad_norm;
  estimate_shares_ += report.estimate_share;
  progress_ += record.progress - record.progress_before;
  has_rounds_ = has_rounds_ || !report.round_micro_batches.empty();
}

double Tally::loss() const { return ratio(all_.loss_sum, static_cast<double>(all_.num_losses)); }

double Tally::overlap_fraction() const {
  if (communication_seconds_ <= 0) return 0;
  return std::clamp(1 - idle_seconds_ / communication_seconds_, 0.0, 1.0);
}

double Tally::progress_per_second() const { return ratio(progress_, seconds_); }
double Tally::units_per_second() const { return ratio(static_cast<double>(all_.units), seconds_); }

std::string rate_key(const std::string& unit) {
  return unit == "tokens" ? "tokens_per_second" : "samples_per_second";
}

nlohmann::ordered_json Tally::to_json(const std::string& unit) const {
  nlohmann::ordered_json line;
  line["loss"] = loss();
  line["lr"] = last_lr_;
  line["grad_norm"] = last_grad_norm_;
  line["steps"] = num_steps_;
  line["skipped_steps"] = num_skipped_;
  line["micro_batches"] = all_.micro_batches;
  line["samples"] = all_.samples;
  line["step_seconds"] = ratio(seconds_, static_cast<double>(num_steps_));
  line[rate_key(unit)] = units_per_second();
  line["staleness/mean"] = ratio(all_.staleness_sum, static_cast<double>(num_passes_));
  line["staleness/max"] = all_.staleness_max;
  line["bytes_sent"] = bytes_sent_;
  line["communication_seconds"] = communication_seconds_;
  line["idle_seconds"] = idle_seconds_;
  line["overlap_fraction"] = overlap_fraction();
  if (has_rounds_) {
    line["micro_batches_per_commit"] =
        ratio(static_cast<double>(all_.micro_batches), static_cast<double>(num_steps_));
    line["estimate_share"] = ratio(estimate_shares_, static_cast<double>(num_steps_));
  }
  if (mix_bytes_sent_ > 0) {
    line["mix/bytes_sent"] = mix_bytes_sent_;
    line["mix/moved_fraction"] = ratio(mixed_fractions_, static_cast<double>(num_steps_));
  }
  if (is_stage_) {
    line["stage/idle_seconds"] = stage_idle_seconds_;
    line["bubble_fraction"] = ratio(stage_idle_seconds_, seconds_);
    line["stage/kept_bytes"] = kept_bytes_;
    line["stage/staleness_mean"] =
        ratio(own_.staleness_sum, static_cast<double>(own_.micro_batches));
    line["stage/staleness_max"] = own_.staleness_max;
    if (last_error_) line["stage/reconstruction_error"] = *last_error_;
    if (last_alignment_) line["stage/gradient_alignment"] = *last_alignment_;
  }
  line["memory/live_bytes"] = memory::live_bytes();
  line["memory/peak_bytes"] = memory::peak_bytes();
  line["memory/rss_bytes"] = memory::rss_bytes();
  return line;
}

}  // namespace outstep::train
