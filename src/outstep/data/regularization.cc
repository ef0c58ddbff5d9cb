#include "outstep/data/regularization.h"

#include "outstep/base/errors.h"
#include "outstep/base/rng.h"

namespace outstep::data {
namespace {

std::vector<Regularization> all_combinations() {
  std::vector<Regularization> all;
  for (const double mixup : {0.0, 0.5, 1.0}) {
    for (const double label_smoothing : {0.0, 0.05, 0.1}) {
      for (const double cutmix : {0.0, 0.5, 1.0}) {
        for (const double random_erasing : {0.0, 0.15, 0.35}) {
          all.push_back({.mixup = mixup,
                         .label_smoothing = label_smoothing,
                         .cutmix = cutmix,
                         .random_erasing = random_erasing});
        }
      }
    }
  }
  return all;
}

}  // namespace

std::vector<Regularization> heterogeneous_members(int64_t num_members, uint64_t seed) {
  const std::vector<Regularization> all = all_combinations();
  if (num_members > std::ssize(all)) {
    throw ConfigError(
        "mesh.members = {} is more than the {} combinations of mixup, label smoothing, CutMix and "
        "random erasing that a heterogeneous population has",
        num_members, all.size());
  }
  const Permutation order(all.size(), {.seed = seed, .purpose = purpose("data.regularization")});
  std::vector<Regularization> members;
  for (int64_t i = 0; i < num_members; ++i) {
    members.push_back(all[order[static_cast<uint64_t>(i)]]);
  }
  return members;
}

}  // namespace outstep::data
