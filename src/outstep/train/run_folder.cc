#include "outstep/train/run_folder.h"

#include <fmt/chrono.h>
#include <fmt/std.h>

#include <chrono>
#include <ctime>

#include "outstep/base/errors.h"
#include "outstep/train/agree.h"

namespace outstep::train {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxSameSecond = 1000;  // runs of one name started in one second

std::string time_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  localtime_r(&now, &parts);
  return fmt::format("{:%Y%m%d-%H%M%S}", parts);
}

// Makes one folder; false if it is there already.
bool make_folder(const fs::path& folder) {
  std::error_code error;
  const bool is_new = fs::create_directories(folder, error);
  if (error) {
    throw DataError("cannot make the run's folder {}: {}", folder.string(), error.message());
  }
  return is_new;
}

// create_directories tells whether it made anything, so two runs never get the same folder.
fs::path make_unused(const std::string& recipe_name) {
  const std::string first = fmt::format("{}-{}", recipe_name, time_now());
  for (int i = 1; i < kMaxSameSecond; ++i) {
    fs::path folder = fs::path("runs") / (i == 1 ? first : fmt::format("{}-{}", first, i));
    if (make_folder(folder)) return folder;
  }
  throw DataError("cannot find an unused name for a run beside runs/{}; use --run-dir", first);
}

}  // namespace

fs::path make_run_folder(const fs::path& wanted, const std::string& recipe_name) {
  fs::path folder = wanted;
  if (wanted.empty()) {
    folder = make_unused(recipe_name);
  } else if (!make_folder(wanted)) {
    if (!fs::is_directory(wanted)) throw DataError("{} is not a folder", wanted.string());
    if (fs::exists(wanted / "recipe.toml")) {
      throw DataError(
          "{} holds a run already; go on with it: outstep resume {}, or take another --run-dir",
          wanted.string(), wanted.string());
    }
  }
  make_folder(folder / "metrics");
  make_folder(folder / "checkpoints");
  return folder;
}

fs::path make_run_folder(const fs::path& wanted, const std::string& recipe_name,
                         comm::Group& world) {
  fs::path folder;
  together(world, [&] {
    if (world.rank() == 0) folder = make_run_folder(wanted, recipe_name);
  });
  return broadcast_text(world, folder.string());
}

FolderKind folder_kind(const fs::path& folder) {
  if (!fs::is_directory(folder)) {
    throw DataError("{}: {}", folder.string(),
                    fs::exists(folder) ? "not a folder" : "no such folder");
  }
  if (fs::exists(folder / "manifest.json")) return FolderKind::checkpoint;
  if (fs::is_directory(folder / "checkpoints")) return FolderKind::run;
  const bool has_config = fs::exists(folder / "config.json");
  const bool has_tensors = fs::exists(folder / "model.safetensors") ||
                           fs::exists(folder / "model.safetensors.index.json");
  if (has_config && has_tensors) return FolderKind::model;
  throw DataError(
      "{} is neither a run (no checkpoints/), nor a checkpoint (no manifest.json), nor a model "
      "({})",
      folder.string(), has_config ? "config.json without model.safetensors" : "no config.json");
}

}  // namespace outstep::train
