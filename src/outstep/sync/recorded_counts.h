#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace outstep::sync {

// How many micro-batches a rank has added in each round of each step of an earlier run with dynamic
// counts: with them a run can be repeated bit for bit.
class RecordedCounts {
 public:
  RecordedCounts() = default;  // nothing recorded

  // From a rank's metrics, RUN/metrics/rank-N.jsonl: the lists round_micro_batches of its lines.
  // num_rounds: of a step, at most. Throws DataError naming file and line for what is not such a
  // file, or has a gap.
  static RecordedCounts read(const std::filesystem::path& metrics, size_t num_rounds);

  bool is_empty() const { return steps_.empty(); }
  int64_t num_steps() const { return static_cast<int64_t>(steps_.size()); }
  // Of a round of a step, 0 is the first of each. Nothing beyond what was recorded.
  std::optional<int64_t> at(int64_t step, size_t round) const;

 private:
  std::vector<std::vector<int64_t>> steps_;
};

}  // namespace outstep::sync
