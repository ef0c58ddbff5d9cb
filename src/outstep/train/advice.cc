#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "outstep/train/forecast.h"

namespace outstep::train {
namespace {

// Times as fast: less is within what a plan cannot know.
constexpr double kWorthwhile = 1.05;
// Times the computing: what waits no longer is left as it is.
constexpr double kHardlyWaits = 1.1;

bool is_lockstep(const Forecast& forecast) {
  return forecast.clock.overlap != method::Overlap::everything;
}
bool is_acco(const Forecast& forecast) {
  return !is_lockstep(forecast) && forecast.clock.rounds.size() == 2;
}

// Seconds a micro-batch in lockstep, with so many of them a step and rank.
double seconds_in_lockstep(const Forecast& forecast, int64_t micro_batches) {
  method::RoundClockOptions clock = forecast.clock;
  clock.rounds.front().length.at_least = micro_batches;
  return method::simulate(clock).seconds_per_micro_batch;
}

const Forecast& fastest_in_lockstep(const std::vector<const Forecast*>& lockstep,
                                    int64_t micro_batches) {
  return **std::ranges::min_element(lockstep, {}, [&](const Forecast* forecast) {
    return seconds_in_lockstep(*forecast, micro_batches);
  });
}

// What needs the least memory of all that are about as fast as the fastest.
const Forecast& thriftiest(const std::vector<const Forecast*>& lockstep, int64_t micro_batches) {
  const Forecast& fastest = fastest_in_lockstep(lockstep, micro_batches);
  const double enough = kWorthwhile * seconds_in_lockstep(fastest, micro_batches);
  const Forecast* best = nullptr;
  for (const Forecast* forecast : lockstep) {
    if (seconds_in_lockstep(*forecast, micro_batches) > enough) continue;
    if (!best || forecast->memory_bytes < best->memory_bytes) best = forecast;
  }
  return *best;
}

// acco against lockstep with steps as large as its own, or the recipe's if these are larger.
struct Candidate {
  const Forecast* acco = nullptr;
  int64_t micro_batches = 0;  // a step and rank
  const Forecast* lockstep = nullptr;
  double gain = 0;  // times as fast

  double gain_over(const Forecast& other) const {
    return seconds_in_lockstep(other, micro_batches) / acco->times.seconds_per_micro_batch;
  }
};

// The recipe's own acco; else the one that gains more, with fixed counts if that is about a tie.
Candidate best_acco(const std::vector<Forecast>& forecasts,
                    const std::vector<const Forecast*>& lockstep, int64_t accumulation) {
  Candidate best;
  for (const Forecast& forecast : forecasts) {
    if (!is_acco(forecast)) continue;
    Candidate candidate{.acco = &forecast,
                        .micro_batches = std::max<int64_t>(
                            std::llround(forecast.micro_batches_per_step()), accumulation)};
    candidate.lockstep = &fastest_in_lockstep(lockstep, candidate.micro_batches);
    candidate.gain = candidate.gain_over(*candidate.lockstep);
    if (forecast.is_recipes) return candidate;
    if (candidate.gain > best.gain * kWorthwhile) best = candidate;
  }
  return best;
}

std::string for_acco(const Candidate& candidate, int64_t accumulation) {
  const int64_t committed = std::llround(candidate.acco->micro_batches_per_step());
  std::string text = fmt::format("{} is {:.2f} × as fast as {}, the best in lockstep",
                                 candidate.acco->sync, candidate.gain, candidate.lockstep->sync);
  if (committed == accumulation) return text;
  if (committed > accumulation) text += ", with updates as large";
  return text + fmt::format(". A rank then commits {} micro-batches an update, not {}", committed,
                            accumulation);
}

std::string for_lockstep(const Candidate& candidate, const Forecast& lockstep) {
  const bool hardly_waits = lockstep.step_seconds() <= kHardlyWaits * lockstep.compute_seconds;
  const std::string text = fmt::format("{} {}, {} would be {:.2f} × as fast", lockstep.sync,
                                       hardly_waits ? "suffices" : "is best", candidate.acco->sync,
                                       candidate.gain_over(lockstep));
  if (hardly_waits || !candidate.acco->clock.rounds.front().length.is_fixed) return text;
  return text +
         ": it sends twice an update; sync.counts = \"dynamic\" adds micro-batches instead "
         "of waiting";
}

std::string factor(double value) {
  if (value < 0.01) return "less than 0.01";
  return value < 10 ? fmt::format("{:.2g}", value) : fmt::format("{:.0f}", value);
}

}  // namespace

std::string advise(const std::vector<Forecast>& forecasts, int64_t accumulation) {
  std::vector<const Forecast*> lockstep;
  for (const Forecast& forecast : forecasts) {
    if (is_lockstep(forecast)) lockstep.push_back(&forecast);
  }
  if (lockstep.empty()) return "";
  const Forecast& thrifty = thriftiest(lockstep, accumulation);
  const Candidate candidate = best_acco(forecasts, lockstep, accumulation);
  const method::ClockRound& round = thrifty.clock.rounds.front();
  const double computing =
      static_cast<double>(accumulation) * thrifty.clock.replicas.front().micro_batch_seconds;
  const double ratio = (round.reduce_scatter_seconds + round.all_gather_seconds) / computing;
  std::string text =
      fmt::format("in lockstep communication would take {} × computing: ", factor(ratio));
  if (!candidate.acco) return text + thrifty.sync + " is what this optimizer allows";
  return text + (candidate.gain >= kWorthwhile ? for_acco(candidate, accumulation)
                                               : for_lockstep(candidate, thrifty));
}

}  // namespace outstep::train
