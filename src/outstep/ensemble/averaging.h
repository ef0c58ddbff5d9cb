#pragma once

#include <string>
#include <utility>

#include "outstep/ensemble/parts.h"
#include "outstep/ensemble/timing.h"
#include "outstep/io/settings.h"
#include "outstep/method/mixer.h"

// What populations are compared with: methods that average whole models. None of them touches the
// optimizer's state, and none has a state of its own: what they draw depends on (seed, step).

namespace outstep::ensemble {

// The partners of each member in a mixing, whose mean it becomes.
using Partners = std::vector<std::pair<int, int>>;

struct AveragingOptions {
  Timing timing = {};
  double alpha = 0;  // papa: share of itself that a member keeps at the full learning rate

  // Timing's keys of [ensemble]; alpha for papa.
  static AveragingOptions read(io::Section& section, const std::string& method);
};

// Averaging of all: θ_n ← (1 - λ) θ_n + λ mean(θ).
//
//   papa       every 10 steps, λ = (1 - alpha) lr_t / lr_0 (arXiv 2304.03094)
//   papa_all   λ = 1: all go on from the mean
//   dart       the same from start_step on, after ordinary training (arXiv 2302.14685)
//
// Averaging by two: θ_n ← (θ_a + θ_b) / 2.
//
//   papa_2     (a, b): a random pair of distinct members for each n
//   noloco     (n, its partner): members are paired at random; an odd one goes on alone (gossip as
//              in NoLoCo, 2506.10911, without its momentum)
class Averaging : public method::Mixer {
 public:
  Averaging(const Parts& parts, std::string method, AveragingOptions options);

  const std::string& name() const override { return method_; }
  bool is_due(const method::MixContext& context) const override;
  method::MixReport after_step(const method::MixContext& context,
                               std::span<optim::State* const> states) override;
  double planned_bytes_per_step() const override;
  void save(io::StateWriter& /*writer*/) const override {}
  void load(io::StateReader& /*reader*/) override {}

 private:
  void mix(const method::MixContext& context);
  void pull_to_mean(double strength, const method::MixContext& context);
  void average_by_two(const Partners& partners, const method::MixContext& context);
  at::Tensor values_in(const optim::Range& range) const;
  bool is_by_two() const { return method_ == "papa_2" || method_ == "noloco"; }

  const Parts parts_;
  const std::string method_;
  const AveragingOptions options_;
  // Of the flat vector, for what requires no gradient: it stays as it is to the last bit, which a
  // mean of equal numbers need not.
  const std::vector<optim::Range> frozen_;
};

// papa_2's and noloco's draws for a step.
Partners draw_pairs(uint64_t seed, int64_t step, int num_members);
Partners draw_matching(uint64_t seed, int64_t step, int num_members);

}  // namespace outstep::ensemble
