#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "outstep/method/round_clock.h"
#include "outstep/train/assembly.h"

namespace outstep::train {

// What computing takes on this machine. Zeros: nothing was measured.
struct MachinePace {
  method::ReplicaPace replica = {};
  double update_seconds_per_element = 0;  // of the flat vector: norm and optimizer
  int64_t units_per_micro_batch = 0;      // tokens or images
};

// What a recipe would need with one sync, on a rank: memory and traffic by the synchronizer's own
// formulas, time by method::simulate.
struct Forecast {
  std::string sync = {};     // as a person says it: "zero1 with overlap", "acco with fixed counts"
  bool is_recipes = false;   // the recipe's own
  int64_t memory_bytes = 0;  // all but activations
  int64_t optimizer_bytes = 0;      // of it
  int64_t communication_bytes = 0;  // of it
  int64_t bytes_sent_per_step = 0;
  int64_t overlapped_bytes = 0;
  method::RoundClockOptions clock = {};
  method::RoundTimes times = {};
  double compute_seconds = 0;  // of a step: micro-batches, and the update if computing waits for it
  double units_per_second = 0;  // of all replicas; 0: nothing was measured

  // Means, where counts are dynamic.
  double micro_batches_per_step() const { return times.micro_batches.front(); }
  double step_seconds() const { return times.commit_seconds; }
  // unit: "tokens", "images", "samples".
  nlohmann::ordered_json to_json(const std::string& unit) const;
};

struct ForecastOptions {
  MachinePace pace = {};
  std::optional<double> link_bits_per_second = std::nullopt;  // each way; none: no time at all
};

// sync: of the recipe's [sync], made with the assembly.
Forecast forecast(Recipe& recipe, const Assembly& assembly, const method::Synchronizer& sync,
                  const ForecastOptions& options);

// The same recipe with ddp, zero1 with and without overlap, dpu, acco, and as it is. The recipe's
// wire goes for all; dpu and acco have fixed counts, so that a step is as large, and acco dynamic
// ones too, unless the recipe's own acco has fixed ones. Makes each synchronizer in turn and
// releases it; whoever is short of memory has released the assembly's own.
std::vector<Forecast> compare(Recipe& recipe, Assembly& assembly, const Forecast& own,
                              const ForecastOptions& options);

// Which of them to take, and why, in one sentence. accumulation: of the recipe.
std::string advise(const std::vector<Forecast>& forecasts, int64_t accumulation);

}  // namespace outstep::train
