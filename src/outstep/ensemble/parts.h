#pragma once

#include <cstdint>

#include "outstep/comm/group.h"
#include "outstep/nn/flat_params.h"
#include "outstep/nn/model.h"

namespace outstep::ensemble {

// What every mixer is made of. All borrowed; they outlive it.
struct Parts {
  const nn::Model& model;  // the whole of it, of which params may be a stage
  nn::FlatParams& params;  // written between two steps
  comm::Group& group;      // this rank's peers in the other members; the mixer's alone
  uint64_t seed = 1;       // the recipe's, the same for all members
  // The optimizer's vectors on this rank, in lengths of params: a shard of two is less than two.
  double moments_per_parameter = 0;
};

}  // namespace outstep::ensemble
