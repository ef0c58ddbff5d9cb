#pragma once

#include <cstdint>

#include "outstep/io/state.h"
#include "outstep/nn/flat_params.h"

namespace outstep::method {

struct MixReport {
  int64_t bytes_sent = 0;
  int64_t num_mixed = 0;  // elements exchanged
};

// Lets the members of a population share something after each committed update.
class Mixer : public io::Stateful {
 public:
  virtual MixReport after_step(int64_t step, nn::FlatParams& params) = 0;
};

}  // namespace outstep::method
