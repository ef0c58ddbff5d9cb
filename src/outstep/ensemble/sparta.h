#pragma once

#include "outstep/ensemble/layers.h"
#include "outstep/ensemble/parts.h"
#include "outstep/ensemble/timing.h"
#include "outstep/io/settings.h"
#include "outstep/method/mixer.h"

namespace outstep::ensemble {

struct SpartaOptions {
  double p = 0.005;  // of an element to be averaged
  Timing timing = {};

  // p and Timing's keys of [ensemble].
  static SpartaOptions read(io::Section& section);
};

// SPARTA (exo-explore/gym): after a step, a random fraction of the parameters becomes its mean over
// the members. The mask is that of a plan with the same p for all layers, so that it does not
// travel; the optimizer's state is not touched.
class Sparta : public method::Mixer {
 public:
  Sparta(const Parts& parts, SpartaOptions options);

  const std::string& name() const override;
  bool is_due(const method::MixContext& context) const override;
  method::MixReport after_step(const method::MixContext& context,
                               std::span<optim::State* const> states) override;
  double planned_bytes_per_step() const override;
  void save(io::StateWriter& /*writer*/) const override {}
  void load(io::StateReader& /*reader*/) override {}

 private:
  const Parts parts_;
  const SpartaOptions options_;
  const std::vector<Layer> layers_;
  const std::vector<double> probabilities_;  // by layer
};

}  // namespace outstep::ensemble
