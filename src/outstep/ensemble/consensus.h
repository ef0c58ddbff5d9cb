#pragma once

#include "outstep/comm/group.h"

namespace outstep::ensemble {

// How far the members of a population are from their mean, as squares of Euclidean norms over this
// rank's parameters: of several stages they add up.
struct Consensus {
  double distance = 0;   // (1/N) Σ ‖θ_n - mean‖²
  double mean_norm = 0;  // ‖mean‖²
};

// Collective over the members; values [size] are read, a copy is made. The same on every rank.
Consensus measure_consensus(comm::Group& members, const at::Tensor& values);

// ‖θ_i - θ_j‖² of each two members, [N, N] float64, of this rank's parameters; the same on every
// rank. Collective over the members; N models travel, one at a time.
at::Tensor measure_pairs(comm::Group& members, const at::Tensor& values);

}  // namespace outstep::ensemble
