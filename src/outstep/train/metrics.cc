#include "outstep/train/metrics.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "outstep/base/errors.h"
#include "outstep/io/files.h"

namespace outstep::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

double unix_seconds() {
  using std::chrono::system_clock;
  return std::chrono::duration<double>(system_clock::now().time_since_epoch()).count();
}

// Whether a line stays when the run goes on from a step. What is no line of ours is dropped too:
// the writer was killed in the middle of it.
bool is_kept(const std::string& line, int64_t first_step) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return false;
  const auto step = json.find("step");
  return step != json.end() && step->is_number_integer() && step->get<int64_t>() <= first_step;
}

void drop_later_lines(const fs::path& path, int64_t first_step) {
  if (!fs::exists(path)) return;
  std::istringstream before(io::read_text(path));
  std::string after;
  for (std::string line; std::getline(before, line);) {
    if (is_kept(line, first_step)) after += line + "\n";
  }
  io::write_text_atomically(path, after);
}

}  // namespace

fs::path metrics_path(const fs::path& run_folder, int rank) {
  return run_folder / "metrics" / fmt::format("rank-{}.jsonl", rank);
}

Metrics::Metrics(const Options& options) {
  const fs::path path = metrics_path(options.run_folder, options.rank);
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) throw DataError("{}: {}", path.parent_path().string(), error.message());
  drop_later_lines(path, options.first_step);
  // Of ranks that are no more.
  for (int other = options.num_ranks; options.rank == 0; ++other) {
    const fs::path its_path = metrics_path(options.run_folder, other);
    if (!fs::exists(its_path)) break;
    drop_later_lines(its_path, options.first_step);
  }
  lines_ = std::make_unique<io::JsonLines>(path);
  if (options.rank == 0 && options.has_tensorboard) {
    tensorboard_ = std::make_unique<io::TensorBoardWriter>(options.run_folder);
  }
}

Metrics::~Metrics() = default;

void Metrics::write(const std::string& kind, int64_t step, const Json& values) {
  Json line;
  line["kind"] = kind;
  line["step"] = step;
  line["unix_seconds"] = unix_seconds();
  line.update(values);
  lines_->write(line);
  if (!tensorboard_) return;
  for (const auto& [key, value] : values.items()) {
    if (value.is_number()) tensorboard_->scalar(key, value.get<double>(), step);
  }
  tensorboard_->flush();
}

}  // namespace outstep::train
