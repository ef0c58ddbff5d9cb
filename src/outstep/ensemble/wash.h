#pragma once

#include <memory>
#include <optional>

#include "outstep/base/threads.h"
#include "outstep/ensemble/parts.h"
#include "outstep/ensemble/shuffle.h"
#include "outstep/ensemble/timing.h"
#include "outstep/io/settings.h"
#include "outstep/method/mixer.h"

namespace outstep::ensemble {

struct WashOptions {
  double p = 0.001;  // of an element of the first layer to take part in a shuffle
  Depth depth = Depth::decreasing;
  std::vector<double> depth_factors = {};  // of Depth::custom, by layer
  bool fades = true;                       // p goes with the learning rate, as PAPA's pull does
  Timing timing = {};
  bool is_cyclic = false;
  bool moves_moments = false;  // wash_opt
  bool is_delayed = false;
  int64_t check_every = 100;  // shuffles between two comparisons of the plan over the members

  // p, depth, depth_factors, p_schedule, permutation, check_every and Timing's keys of [ensemble];
  // for wash delayed too. Throws ConfigError.
  static WashOptions read(io::Section& section, bool moves_moments);
};

// WASH (Fournier et al., arXiv 2405.17517): after a step, a small random fraction of scalar
// parameters is dealt out anew among the members, position by position. No average is formed: at
// every position the members together keep the values that they had. wash_opt moves the optimizer's
// per-weight state along.
//
// Delayed, a shuffle's values travel while the next step is computed, on a thread of this object's
// own, and member n then adds what it received less what it had when they set out, which conserves
// the mean but not the values. What is on its way when a run goes on with fewer members is dropped.
// docs/methods/wash.md has the buffer table.
class Wash : public method::Mixer {
 public:
  Wash(const Parts& parts, WashOptions options);
  ~Wash() override;

  const std::string& name() const override;
  bool is_due(const method::MixContext& context) const override;
  method::MixReport after_step(const method::MixContext& context,
                               std::span<optim::State* const> states) override;
  double planned_bytes_per_step() const override;

  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

  Plan plan(const method::MixContext& context) const;

 private:
  // A shuffle on its way. The worker's until its job has ended.
  struct Pending {
    method::MixContext context;  // of the step after which it set out
    Shuffle shuffle;
    at::Tensor packed;      // [sent]; undefined once it has travelled
    at::Tensor difference;  // [received]: first what was there, then what it changes by
  };

  double base_probability(const method::MixContext& context) const;
  std::vector<Lane> lanes(std::span<optim::State* const> states) const;
  Plan agreed_plan(const method::MixContext& context);
  void shuffle_now(std::span<const Lane> lanes, const method::MixContext& context,
                   method::MixReport& report);
  void set_out(std::span<const Lane> lanes, const method::MixContext& context,
               method::MixReport& report);
  void take_in(std::span<const Lane> lanes, method::MixReport& report);
  void travel();

  nn::FlatParams& params_;
  comm::Group& group_;
  const WashOptions options_;
  const uint64_t seed_;
  const std::vector<Layer> layers_;
  const std::vector<double> factors_;  // by layer
  const double lanes_per_parameter_;   // parameters, and moments if they move
  const uint64_t layout_;              // a hash of what must be the same on all members
  int64_t num_shuffles_ = 0;           // since this was made
  std::optional<Pending> pending_;
  double communication_seconds_ = 0;  // the worker's while a job runs, else the calling thread's
  SerialWorker::Ticket travelling_ = 0;
  std::unique_ptr<SerialWorker> worker_;  // null if not delayed; last: its jobs use the above
};

}  // namespace outstep::ensemble
