#include "outstep/apps/resume_rules.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "outstep/base/errors.h"

namespace outstep::apps {
namespace {

// By how their keys begin.
constexpr std::array<std::string_view, 13> kHarmless = {
    "log.", "checkpoint.", "evaluation.", "comm.deadline_seconds", "comm.interface",
    "comm.record_flights", "comm.link", "data.path", "data.prefetch", "ensemble.on_loss",
    // of the run's end
    "ensemble.barrier_points", "ensemble.batch_norm", "ensemble.check_every"};

struct Told {
  std::string_view key;
  std::string_view consequence;
};
constexpr std::array<Told, 8> kTold = {{
    {"train.steps", "schedules that end with the run are stretched to the new end"},
    {"mesh.replicas", "the micro-batches of a step are as many as the replicas"},
    {"ensemble.lost", "the other members go on among themselves"},
    {"sync.name", "another sync may sum gradients in another order"},
    {"sync.replay", "another record has other counts"},
    {"train.threads", "sums inside kernels may be taken in another order"},
    {"comm.backend", "NCCL sums in an order of its own"},
    {"train.device", "another device rounds otherwise"},
}};

}  // namespace

std::vector<std::string> check_resume_overrides(const std::vector<std::string>& overrides) {
  std::vector<std::string> notes;
  for (const std::string& override : overrides) {
    const std::string key = override.substr(0, override.find('='));
    if (std::any_of(kHarmless.begin(), kHarmless.end(),
                    [&](std::string_view start) { return key.starts_with(start); })) {
      continue;
    }
    const auto told = std::find_if(kTold.begin(), kTold.end(),
                                   [&](const Told& entry) { return entry.key == key; });
    if (told == kTold.end()) {
      throw ConfigError(
          "--{}: a run cannot go on with another {}; train anew with: outstep train RECIPE --{}",
          override, key, override);
    }
    notes.push_back(
        fmt::format("--{}: not bit for bit the run it was, since {}", override, told->consequence));
  }
  return notes;
}

}  // namespace outstep::apps
