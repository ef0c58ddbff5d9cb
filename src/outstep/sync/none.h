#pragma once

#include "outstep/io/settings.h"
#include "outstep/method/committing.h"
#include "outstep/method/synchronizer.h"
#include "outstep/sync/parts.h"

namespace outstep::sync {

struct NoneOptions {
  method::OnNonfinite on_nonfinite = method::OnNonfinite::fail;

  static NoneOptions read(io::Section& section);
};

// One replica: micro-batches are summed, the optimizer applies their mean. What ddp and zero1 must
// equal. Throws ConfigError if the group holds more than this rank.
class None : public method::Synchronizer {
 public:
  None(Parts parts, NoneOptions options);

  const std::string& name() const override;
  method::StepReport step(method::GradientEngine& engine,
                          const method::StepContext& context) override;
  int64_t optimizer_bytes() const override { return state_.num_bytes(); }
  int64_t communication_bytes() const override { return 0; }
  std::vector<optim::State*> optimizer_states() override { return {&state_}; }
  method::Traffic planned_traffic() const override { return {}; }

  void save(io::StateWriter& writer) const override;
  void load(io::StateReader& reader) override;

 private:
  Parts parts_;
  NoneOptions options_;
  optim::State state_;  // of the whole flat vector
};

}  // namespace outstep::sync
