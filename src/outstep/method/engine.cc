#include "outstep/method/engine.h"

#include <algorithm>

namespace outstep::method {

Contribution& Contribution::operator+=(const Contribution& other) {
  micro_batches += other.micro_batches;
  samples += other.samples;
  units += other.units;
  loss_sum += other.loss_sum;
  num_losses += other.num_losses;
  staleness_sum += other.staleness_sum;
  staleness_max = std::max(staleness_max, other.staleness_max);
  return *this;
}

}  // namespace outstep::method
