#include <nlohmann/json.hpp>

#include "outstep/train/tally.h"
#include "outstep/train/trainer.h"

namespace outstep::train {

nlohmann::ordered_json Summary::to_json() const {
  nlohmann::ordered_json json;
  json["run"] = run.string();
  json["steps"] = steps;
  json["progress"] = progress;
  json["finished"] = finished;
  if (train_loss) json["train_loss"] = *train_loss;
  if (validation_loss) json["validation_loss"] = *validation_loss;
  if (accuracy) json["accuracy"] = *accuracy;
  json[rate_key(unit)] = units_per_second;
  json["train_seconds"] = train_seconds;
  json["seconds_to_first_step"] = seconds_to_first_step;
  json["peak_memory_bytes"] = peak_memory_bytes;
  json["bytes_sent"] = bytes_sent;
  json["overlap_fraction"] = overlap_fraction;
  if (population) json["population"] = population->to_json();
  if (!lost_members.empty()) json["lost_members"] = lost_members;
  return json;
}

}  // namespace outstep::train
