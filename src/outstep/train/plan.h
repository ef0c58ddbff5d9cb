#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "outstep/train/assembly.h"

namespace outstep::train {

// What a run would need, found without training: parameters counted, one micro-batch run forward
// and backward to measure activations and time, traffic by the sync's formula.
struct Plan {
  std::string model;
  int64_t num_parameters = 0;
  int64_t parameter_bytes = 0;
  int64_t gradient_bytes = 0;
  int64_t optimizer_bytes = 0;      // of this rank's share
  int64_t communication_bytes = 0;  // buffers
  int64_t activation_bytes = 0;     // peak of a forward and backward pass beyond all the above
  int64_t bytes_sent_per_step = 0;  // by this rank
  double compute_seconds = 0;       // of one step's micro-batches
  std::optional<double> link_bits_per_second;
  double communication_seconds = 0;  // bytes / rate, one direction
  double step_seconds = 0;           // with the overlap this sync can have

  int64_t total_bytes() const {
    return parameter_bytes + gradient_bytes + optimizer_bytes + communication_bytes +
           activation_bytes;
  }
  nlohmann::ordered_json to_json() const;
};

struct PlanOptions {
  std::optional<double> link_bits_per_second;
  bool measure =
      true;  // false: leave activations and times at 0 (a model too large for this machine)
};

// Builds rank 0 of the recipe's mesh in this process alone.
Plan make_plan(Recipe& recipe, const Places& places, const PlanOptions& options);

}  // namespace outstep::train
