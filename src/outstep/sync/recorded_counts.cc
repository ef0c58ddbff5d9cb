#include "outstep/sync/recorded_counts.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/io/json.h"

namespace outstep::sync {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMostMicroBatches = 1 << 20;  // a round: more is no record of ours

struct Line {
  const std::filesystem::path& path;
  int64_t number;

  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(
        "{}:{}: {}; sync.replay takes the metrics/rank-0.jsonl of a run with dynamic "
        "counts",
        path.string(), number, what);
  }
};

std::vector<int64_t> read_step(const Json& counts, size_t num_rounds, const Line& line) {
  std::vector<int64_t> step;
  if (!counts.is_array() || counts.empty()) line.fail("a step without counts");
  if (counts.size() > num_rounds) {
    line.fail(
        fmt::format("a step of {} rounds, where this sync's have {}", counts.size(), num_rounds));
  }
  for (const Json& count : counts) {
    if (!count.is_number_integer() || count.get<int64_t>() < 1 ||
        count.get<int64_t>() > kMostMicroBatches) {
      line.fail(
          fmt::format("\"round_micro_batches\" holds {}, not a count (a run that went on with "
                      "another number of replicas cannot be replayed)",
                      count.dump()));
    }
    step.push_back(count.get<int64_t>());
  }
  return step;
}

}  // namespace

RecordedCounts RecordedCounts::read(const std::filesystem::path& metrics, size_t num_rounds) {
  std::ifstream stream(metrics);
  if (!stream) {
    throw DataError(
        "{}: cannot be read; sync.replay takes the metrics/rank-0.jsonl of a run with as many "
        "replicas, and each rank reads its own beside it",
        metrics.string());
  }
  RecordedCounts recorded;
  Line line{.path = metrics, .number = 0};
  for (std::string text; std::getline(stream, text);) {
    ++line.number;
    const Json json = io::try_parse_json<Json>(text);
    if (!json.is_object()) line.fail("not a line of metrics");
    const auto counts = json.find("round_micro_batches");
    if (counts == json.end()) continue;
    if (!counts->is_array()) line.fail("\"round_micro_batches\" is not a list");
    for (const Json& step : *counts) recorded.steps_.push_back(read_step(step, num_rounds, line));
    const auto step = json.find("step");
    if (step == json.end() || !step->is_number_integer() ||
        step->get<int64_t>() != recorded.num_steps()) {
      line.fail(fmt::format("counts of {} steps up to here, which is not this line's step",
                            recorded.num_steps()));
    }
  }
  if (recorded.is_empty()) line.fail("the file ends without \"round_micro_batches\"");
  return recorded;
}

std::optional<int64_t> RecordedCounts::at(int64_t step, size_t round) const {
  if (step >= num_steps() || round >= steps_[static_cast<size_t>(step)].size()) return {};
  return steps_[static_cast<size_t>(step)][round];
}

}  // namespace outstep::sync
