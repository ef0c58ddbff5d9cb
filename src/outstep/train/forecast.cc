#include "outstep/train/forecast.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "outstep/method/committing.h"
#include "outstep/method/traffic.h"
#include "outstep/sync/acco.h"
#include "outstep/train/tables.h"
#include "outstep/train/tally.h"

namespace outstep::train {
namespace {

using method::Overlap;

constexpr double kEndlessRate = std::numeric_limits<double>::infinity();

Overlap overlap_of(const method::Synchronizer& sync) {
  const method::Traffic traffic = sync.planned_traffic();
  // Rounds stay rounds where nothing is sent; a lockstep method with one bucket overlaps nothing.
  const bool overlaps = traffic.overlap == Overlap::everything || traffic.overlapped_bytes > 0;
  return overlaps ? traffic.overlap : Overlap::none;
}

std::vector<method::RoundLength> lengths_of(Recipe& recipe, const method::Synchronizer& sync) {
  io::Section section = recipe.settings.section("sync");
  const int64_t accumulation = recipe.train.accumulation;
  if (sync.name() == "acco") {
    const auto options = sync::AccoOptions::read(section, accumulation);
    // While the estimate half travels, the other one is computed.
    return {options.second_half(accumulation), options.first_half(accumulation)};
  }
  if (overlap_of(sync) == Overlap::everything) {
    return {sync::OverlappedOptions::read(section).length(accumulation)};
  }
  return {{.at_least = accumulation, .is_fixed = true}};
}

std::string title(const method::Synchronizer& sync, const method::RoundClockOptions& clock) {
  if (clock.overlap == Overlap::everything) {
    return sync.name() +
           (clock.rounds.front().length.is_fixed ? " with fixed counts" : " with dynamic counts");
  }
  return sync.name() + (clock.overlap == Overlap::backward_and_forward ? " with overlap" : "");
}

// Elements of the flat vector that a rank updates in a round, each as often as it does.
int64_t num_updated(const Assembly& assembly, const method::Synchronizer& sync) {
  if (sync.name() == "none" || sync.name() == "ddp") return assembly.params->size();
  const comm::Group& group = *assembly.replica_group;
  const int64_t shard = method::shards_of(*assembly.params, group).size(group.rank());
  return sync.name() == "wp" ? 2 * shard : shard;
}

// How much of a round's traffic is gradients. Matters for zero1 with overlap alone, whose
// parameters travel exactly.
double gradient_share(Recipe& recipe) {
  io::Section section = recipe.settings.section("sync");
  const auto bytes =
      static_cast<double>(method::wire_bytes_per_element(method::read_wire(section)));
  return bytes / (bytes + sizeof(float));
}

method::RoundClockOptions clock_of(Recipe& recipe, const Assembly& assembly,
                                   const method::Synchronizer& sync,
                                   const ForecastOptions& options) {
  const method::Traffic traffic = sync.planned_traffic();
  const auto seconds = [&](int64_t bytes) {
    return static_cast<double>(bytes) * 8 / options.link_bits_per_second.value_or(kEndlessRate);
  };
  method::RoundClockOptions clock{.overlap = overlap_of(sync), .replicas = {options.pace.replica}};
  for (const method::RoundLength& length : lengths_of(recipe, sync)) {
    const size_t i = clock.rounds.size();
    const double all =
        seconds(traffic.round_bytes.empty() ? traffic.bytes_sent : traffic.round_bytes.at(i));
    const double of_gradients = gradient_share(recipe) * all;
    clock.rounds.push_back({.length = length,
                            .reduce_scatter_seconds = of_gradients,
                            .all_gather_seconds = all - of_gradients});
  }
  clock.first_layer_seconds = seconds(traffic.bytes_sent - traffic.overlapped_bytes);
  clock.update_seconds =
      static_cast<double>(num_updated(assembly, sync)) * options.pace.update_seconds_per_element;
  return clock;
}

// The recipe but for its [sync], of which other methods understand what travels how.
Recipe with_sync(Recipe& recipe, const std::string& sync) {
  std::string toml = "[sync]\n" + sync + "\n";
  io::Section section = recipe.settings.section("sync");
  for (const char* key : {"wire", "live", "estimate_dtype"}) {
    if (section.has(key)) toml += fmt::format("{} = \"{}\"\n", key, section.text(key, ""));
  }
  Recipe other(recipe.name, io::Settings::from_text(toml, "plan"));
  other.mesh = recipe.mesh;
  other.train = recipe.train;
  return other;
}

std::vector<std::string> syncs_to_compare(const Recipe& recipe, const Assembly& assembly,
                                          const Forecast& own) {
  const std::string fixed_acco = "name = \"acco\"\ncounts = \"fixed\"";
  std::vector<std::string> syncs = {"name = \"ddp\""};
  if (!assembly.optimizer->cuts_anywhere()) return syncs;  // all others shard it
  syncs.insert(syncs.end(), {"name = \"zero1\"", "name = \"zero1\"\noverlap = true",
                             "name = \"dpu\"\ncounts = \"fixed\""});
  if (recipe.train.accumulation > 1) syncs.push_back(fixed_acco);  // a step has two halves
  if (own.sync != "acco with fixed counts") syncs.emplace_back("name = \"acco\"");
  return syncs;
}

}  // namespace

Forecast forecast(Recipe& recipe, const Assembly& assembly, const method::Synchronizer& sync,
                  const ForecastOptions& options) {
  const method::Traffic traffic = sync.planned_traffic();
  Forecast forecast{.optimizer_bytes = sync.optimizer_bytes(),
                    .communication_bytes = sync.communication_bytes(),
                    .bytes_sent_per_step = traffic.bytes_sent,
                    .overlapped_bytes = traffic.overlapped_bytes,
                    .clock = clock_of(recipe, assembly, sync, options)};
  forecast.sync = title(sync, forecast.clock);
  forecast.memory_bytes = static_cast<int64_t>(assembly.params->values().nbytes() +
                                               assembly.params->gradients().nbytes()) +
                          forecast.optimizer_bytes + forecast.communication_bytes;
  forecast.times = method::simulate(forecast.clock);
  forecast.compute_seconds =
      forecast.micro_batches_per_step() * options.pace.replica.micro_batch_seconds;
  if (forecast.clock.overlap != Overlap::everything) {
    forecast.compute_seconds += forecast.clock.update_seconds;
  }
  if (options.pace.replica.micro_batch_seconds > 0) {
    forecast.units_per_second = static_cast<double>(options.pace.units_per_micro_batch) *
                                assembly.mesh.replicas / forecast.times.seconds_per_micro_batch;
  }
  return forecast;
}

std::vector<Forecast> compare(Recipe& recipe, Assembly& assembly, const Forecast& own,
                              const ForecastOptions& options) {
  std::vector<Forecast> forecasts;
  for (const std::string& toml : syncs_to_compare(recipe, assembly, own)) {
    Recipe other = with_sync(recipe, toml);
    const auto sync = make_synchronizer(other, assembly);
    forecasts.push_back(forecast(other, assembly, *sync, options));
  }
  const auto same = std::ranges::find(forecasts, own.sync, &Forecast::sync);
  Forecast& recipes = same != forecasts.end() ? *same : forecasts.emplace_back();
  recipes = own;
  recipes.is_recipes = true;
  return forecasts;
}

nlohmann::ordered_json Forecast::to_json(const std::string& unit) const {
  nlohmann::ordered_json json;
  json["sync"] = sync;
  json["is_recipes"] = is_recipes;
  json["memory_bytes"] = memory_bytes;
  json["bytes_sent_per_step"] = bytes_sent_per_step;
  json["micro_batches_per_step"] = micro_batches_per_step();
  json["step_seconds"] = step_seconds();
  json[rate_key(unit)] = units_per_second;
  return json;
}

}  // namespace outstep::train
