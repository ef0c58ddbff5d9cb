#pragma once

#include "outstep/comm/group.h"
#include "outstep/nn/flat_params.h"
#include "outstep/optim/optimizer.h"

namespace outstep::sync {

// What every synchronizer is made of. All borrowed; they outlive it.
//
//   auto sync = std::make_unique<sync::Ddp>(
//       sync::Parts{.params = params, .group = group, .optimizer = optimizer},
//       sync::DdpOptions::read(section));
struct Parts {
  nn::FlatParams& params;
  comm::Group& group;  // of the replicas; for the synchronizer alone, from any thread of its choice
  const optim::Optimizer& optimizer;
};

}  // namespace outstep::sync
