#include "outstep/engine/pipeline/clock.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "outstep/base/errors.h"

namespace outstep::engine {
namespace {

using Kind = Action::Kind;

// When what a pass needs is there; negative: it is not known yet.
class Arrivals {
 public:
  Arrivals(const std::vector<PassTimes>& stages, int64_t num_micro_batches)
      : stages_(stages),
        links_free_(stages.size(), 0.0),
        activations_(stages.size(),
                     std::vector<double>(static_cast<size_t>(num_micro_batches), kUnknown)),
        gradients_(activations_) {
    std::ranges::fill(activations_[0], 0.0);
  }

  double of(int stage, const Action& action) const {
    const auto& row = action.kind == Kind::forward ? activations_ : gradients_;
    return row[static_cast<size_t>(stage)][static_cast<size_t>(action.micro_batch)];
  }
  void note(const Pass& pass) {
    const auto m = static_cast<size_t>(pass.action.micro_batch);
    const auto stage = static_cast<size_t>(pass.stage);
    const bool is_last = stage + 1 == stages_.size();
    if (pass.action.kind == Kind::backward) {
      if (stage > 0) gradients_[stage - 1][m] = sent(pass, stages_[stage].to_previous_seconds);
    } else if (is_last) {
      gradients_[stage][m] = pass.end;
    } else {
      activations_[stage + 1][m] = sent(pass, stages_[stage].to_next_seconds);
    }
  }

 private:
  // When what the pass made is at the other end of the stage's link.
  double sent(const Pass& pass, double link_seconds) {
    double& free = links_free_[static_cast<size_t>(pass.stage)];
    return free = std::max(free, pass.end) + link_seconds;
  }

  static constexpr double kUnknown = -1;
  const std::vector<PassTimes>& stages_;
  std::vector<double> links_free_;                            // by stage
  std::vector<std::vector<double>> activations_, gradients_;  // by stage and micro-batch
};

}  // namespace

Timeline simulate(const Schedule& schedule, const std::vector<PassTimes>& stages,
                  int64_t num_micro_batches) {
  const int num_stages = schedule.num_stages;
  check(std::ssize(stages) == num_stages, "every stage has its times");
  // With ticks the input does not end: further micro-batches go forward until the last one is back.
  Arrivals arrivals(stages, num_micro_batches + schedule.lead(0) + 1);
  std::vector<std::vector<Pass>> rows(stages.size());
  std::vector<Program> programs;
  for (int s = 0; s < num_stages; ++s) programs.push_back(schedule.program(s));
  for (bool has_moved = true; has_moved;) {
    has_moved = false;
    for (int s = 0; s < num_stages; ++s) {
      const auto stage = static_cast<size_t>(s);
      Program& program = programs[stage];
      while (program.num_backward() < num_micro_batches) {
        const Action action = program.peek();
        const double arrival = arrivals.of(s, action);
        if (arrival < 0) break;
        program.next();
        const double free = rows[stage].empty() ? 0 : rows[stage].back().end;
        const double length = action.kind == Kind::forward ? stages[stage].forward_seconds
                                                           : stages[stage].backward_seconds;
        const double begin = std::max(free, arrival);
        rows[stage].push_back(
            {.stage = s, .action = action, .begin = begin, .end = begin + length});
        arrivals.note(rows[stage].back());
        has_moved = true;
      }
    }
  }
  Timeline timeline{.num_stages = num_stages, .passes = {}};
  for (size_t s = 0; s < rows.size(); ++s) {
    check(programs[s].num_backward() == num_micro_batches, "a schedule does not wait for itself");
    timeline.passes.insert(timeline.passes.end(), rows[s].begin(), rows[s].end());
  }
  return timeline;
}

double Timeline::seconds() const {
  double end = 0;
  for (const Pass& pass : passes) end = std::max(end, pass.end);
  return end;
}

double Timeline::seconds_per_micro_batch(int64_t from) const {
  double begin = 0, end = 0;
  int64_t last = 0;
  for (const Pass& pass : passes) {
    if (pass.stage != 0 || pass.action.kind != Kind::backward) continue;
    last = std::max(last, pass.action.micro_batch);
    if (from > 0 && pass.action.micro_batch == from - 1) begin = pass.end;
    end = std::max(end, pass.end);
  }
  check(from <= last, "a micro-batch comes after the first ones");
  return (end - begin) / static_cast<double>(last + 1 - from);
}

double Timeline::bubble_fraction(int64_t from) const {
  double work = 0;
  int64_t num = 0;
  // All of a stage's passes but those of micro-batches that have not come back.
  for (const Pass& pass : passes) {
    if (pass.action.kind == Kind::backward) num = std::max(num, pass.action.micro_batch + 1);
  }
  for (const Pass& pass : passes) {
    if (pass.action.micro_batch < num) work += pass.end - pass.begin;
  }
  const double of_one = work / static_cast<double>(num);  // all stages
  return 1 - of_one / (num_stages * seconds_per_micro_batch(from));
}

int64_t Timeline::most_in_flight(int stage) const {
  int64_t now = 0, most = 0;
  for (const Pass& pass : passes) {
    if (pass.stage != stage) continue;
    now += pass.action.kind == Kind::forward ? 1 : -1;
    most = std::max(most, now);
  }
  return most;
}

double Timeline::filling_seconds() const {
  for (const Pass& pass : passes) {
    if (pass.stage == 0 && pass.action.kind == Kind::backward) return pass.begin;
  }
  return 0;
}

std::string Timeline::picture(double cell_seconds, size_t max_columns, double from_seconds) const {
  const auto cell_at = [&](double seconds) {
    return static_cast<size_t>(std::lround((seconds - from_seconds) / cell_seconds));
  };
  // Cells as wide as the numbers that are shown.
  size_t width = 3;
  for (const Pass& pass : passes) {
    if (pass.end <= from_seconds || cell_at(pass.end) * 3 > max_columns) continue;
    width = std::max(width, fmt::to_string(pass.action.micro_batch).size() + 2);
  }
  const size_t num_cells = max_columns / width;
  std::string text;
  for (int stage = 0; stage < num_stages; ++stage) {
    std::string row(num_cells * width, ' ');
    for (size_t cell = 0; cell < num_cells; ++cell) row[cell * width] = '.';
    for (const Pass& pass : passes) {
      if (pass.stage != stage || pass.end <= from_seconds) continue;
      const bool has_begun = pass.begin < from_seconds;
      const size_t begin = has_begun ? 0 : cell_at(pass.begin);
      const size_t end = std::max(cell_at(pass.end), begin + 1);
      if (end > num_cells) continue;
      std::string label = fmt::format("{}{}", pass.action.kind == Kind::forward ? 'F' : 'B',
                                      pass.action.micro_batch);
      if (has_begun) label.clear();
      label.resize((end - begin) * width - 1, has_begun || end - begin > 1 ? '-' : ' ');
      row.replace(begin * width, label.size(), label);
    }
    row.erase(row.find_last_not_of(' ') + 1);
    text += fmt::format("stage {:<2} {}\n", stage, row);
  }
  return text;
}

std::vector<PassTimes> pass_times(const std::vector<BlockCost>& costs, const Cut& cut,
                                  const Mode& mode) {
  std::vector<PassTimes> times;
  for (int stage = 0; stage < static_cast<int>(cut.size()); ++stage) {
    const nn::BlockRange blocks = blocks_of(cut, stage);
    const bool is_last = stage + 1 == static_cast<int>(cut.size());
    double forward = 0;
    for (size_t b = blocks.begin; b < blocks.end; ++b) forward += costs[b].forward_seconds;
    times.push_back({.forward_seconds = forward,
                     .backward_seconds = stage_seconds(costs, blocks, mode, is_last) - forward});
  }
  return times;
}

}  // namespace outstep::engine
