#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "outstep/method/mixer.h"
#include "outstep/method/synchronizer.h"

namespace outstep::train {

// What one committed step came to on one rank, and what it tells the others about it: a few numbers
// that add up (but for the maximum) to those of the whole world.
struct StepRecord {
  int64_t step = 0;                          // committed updates, this one included
  double progress_before = 0, progress = 0;  // Position of checkpoint.h, before it and after
  method::StepReport report;
  method::EngineReport engine;
  method::MixReport mix;
  double mixed_fraction = 0;  // of this rank's parameters, that took a value from other members
  double seconds = 0;
  bool wants_to_stop = false;
};

// The part of it that ranks send each other. Sums over replicas; where these are cut into stages,
// over their last stages, but staleness over all.
struct StepTotals {
  static constexpr int kNumValues = method::Contribution::kNumValues + 2;

  method::Contribution contribution;
  int64_t num_passes = 0;  // micro-batches, counted at each stage: what staleness is summed over
  int64_t num_stop_wishes = 0;

  static StepTotals of(const StepRecord& record, bool is_last_stage);
  std::vector<double> to_values() const;
  static StepTotals from_values(std::span<const double> values);
  StepTotals& operator+=(const StepTotals& other);
};

// Adds up steps: since the last line of the log, over the steady part, over the run.
class Tally {
 public:
  void add(const StepRecord& record, const StepTotals& totals);

  int64_t num_steps() const { return num_steps_; }
  double seconds() const { return seconds_; }
  int64_t bytes_sent() const { return bytes_sent_; }
  double loss() const;                 // mean over all replicas' micro-batches
  double overlap_fraction() const;     // share of communication time hidden behind computing
  double progress_per_second() const;  // Position of checkpoint.h
  double units_per_second() const;     // all replicas

  // A line of metrics: the keys of docs/formats.md. unit: "tokens", "images", "samples".
  nlohmann::ordered_json to_json(const std::string& unit) const;

 private:
  int64_t num_steps_ = 0;
  int64_t num_skipped_ = 0;
  double seconds_ = 0;
  method::Contribution all_;  // of all replicas
  int64_t num_passes_ = 0;
  method::Contribution own_;  // of this rank
  double stage_idle_seconds_ = 0;
  int64_t kept_bytes_ = 0;
  bool is_stage_ = false;
  std::optional<double> last_error_, last_alignment_;  // of engines that were to measure them
  int64_t bytes_sent_ = 0;                             // by this rank
  double communication_seconds_ = 0;
  double idle_seconds_ = 0;
  double last_lr_ = 0;
  double last_grad_norm_ = 0;
  double estimate_shares_ = 0;  // summed over steps
  int64_t mix_bytes_sent_ = 0;
  double mixed_fractions_ = 0;  // summed over steps
  double progress_ = 0;
  bool has_rounds_ = false;
};

// "tokens_per_second" for tokens, else "samples_per_second".
std::string rate_key(const std::string& unit);

}  // namespace outstep::train
