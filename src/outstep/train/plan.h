#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "outstep/train/forecast.h"
#include "outstep/train/pipeline_plan.h"

namespace outstep::train {

// What a run would need, found without training: parameters counted, a step run to measure
// activations, a micro-batch and an update timed, traffic by the sync's formula, and a step's time
// from these on a virtual clock (forecast.h).
struct Plan {
  // What a way of mixing sends, at its own defaults or as the recipe has it.
  struct Mixing {
    std::string name;
    double bytes_per_step = 0;  // by this rank, the mean over many steps
    bool is_recipes = false;
  };

  std::string model;
  int64_t num_parameters = 0;
  int64_t parameter_bytes = 0;  // with the padding of the flat vector
  int64_t gradient_bytes = 0;
  int64_t optimizer_bytes = 0;      // of this rank's share
  int64_t communication_bytes = 0;  // buffers
  int64_t activation_bytes = 0;     // peak of a step beyond all the above: activations, batches
  int64_t bytes_sent_per_step = 0;  // by this rank
  int64_t overlapped_bytes = 0;     // the part that may travel behind computing
  double micro_batches_per_step =
      0;                       // of a rank: train.accumulation, or what dynamic counts come to
  double compute_seconds = 0;  // of one step's micro-batches, and of the update if they wait for it
  std::optional<double> link_bits_per_second;
  double communication_seconds = 0;  // bytes / rate, one direction
  double step_seconds = 0;           // with the overlap this sync can have
  std::string unit;                  // what rates count: "tokens", "images" or "samples"
  // On a link, where there are replicas and times: syncs side by side, and which to take.
  std::vector<Forecast> comparison;
  std::string advice;
  std::vector<Mixing> mixings;           // of several members: the whole family
  std::optional<PipelinePlan> pipeline;  // of stages; then no step is run, and no sync compared
  std::string missing_data;  // why the model's own examples were used; empty: data is here

  int64_t total_bytes() const {
    return parameter_bytes + gradient_bytes + optimizer_bytes + communication_bytes +
           activation_bytes;
  }
  nlohmann::ordered_json to_json() const;
};

struct PlanOptions {
  std::optional<double> link_bits_per_second = std::nullopt;
  bool measure = true;  // false: no step is run; activations and times stay 0
};

// Builds rank 0 of the recipe's mesh in this process alone. The counter of memory is installed by
// this, if it was not. Data that is not on this machine is replaced by the model's own examples;
// throws DataError if a text's vocabulary is not here.
Plan make_plan(Recipe& recipe, const data::Places& places, const PlanOptions& options);

}  // namespace outstep::train
