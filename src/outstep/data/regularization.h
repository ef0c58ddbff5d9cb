#pragma once

#include <cstdint>
#include <vector>

namespace outstep::data {

// How the training of one member of a population is regularised, each in the unit of its setting.
struct Regularization {
  double mixup = 0;            // data.mixup
  double label_smoothing = 0;  // model.label_smoothing
  double cutmix = 0;           // data.cutmix
  double random_erasing = 0;   // data.random_erasing

  bool operator==(const Regularization&) const = default;
};

// Of the members of a heterogeneous population, as PAPA has it: the 81 combinations of
// mixup {0, 0.5, 1}, label smoothing {0, 0.05, 0.1}, CutMix {0, 0.5, 1} and random erasing {0,
// 0.15, 0.35}, shuffled by the run's seed; members take the first ones, so that more of them change
// nothing for those before. Throws ConfigError for more members than combinations.
std::vector<Regularization> heterogeneous_members(int64_t num_members, uint64_t seed);

}  // namespace outstep::data
