#include "outstep/data/places.h"

#include <vector>

#include "outstep/base/errors.h"

namespace outstep::data {
namespace {

namespace fs = std::filesystem;

bool is_left_over(const std::string& name) {
  return name.ends_with(".part") || name.ends_with(".tar.gz") || name.find(".tmp-") != name.npos;
}

std::string list_of(const std::vector<fs::path>& candidates) {
  std::string text;
  for (const fs::path& candidate : candidates) text += fmt::format("\n    {}", candidate.string());
  return text;
}

}  // namespace

bool holds_data(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return fs::exists(path, error);
  fs::directory_iterator entry(path, error);
  if (error) return true;  // whoever reads it will say why he cannot
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    if (!is_left_over(entry->path().filename().string())) return true;
  }
  return false;
}

fs::path find_data(const Wanted& wanted, const Places& places) {
  if (wanted.folder.empty()) {
    throw ConfigError("data \"{}\" needs data.path, the file or folder to read", wanted.name);
  }
  const std::string& sample = wanted.sample.empty() ? wanted.folder : wanted.sample;
  std::vector<fs::path> candidates;
  if (!places.data_root.empty()) candidates.push_back(places.data_root / wanted.folder);
  if (!places.shipped.empty()) candidates.push_back(places.shipped / sample);
  for (const fs::path& candidate : candidates) {
    if (holds_data(candidate)) return candidate;
  }
  throw DataError(
      "the data \"{0}\" is not on this machine; looked for{1}\n"
      "  Fetch it with: outstep data get {0}\n"
      "  or say where it lies: --data.path=FOLDER, or OUTSTEP_DATA=FOLDER with {2} in it",
      wanted.name, list_of(candidates), wanted.folder);
}

fs::path find_path(const std::string& path, const Places& places, const PathKey& key) {
  std::vector<fs::path> candidates = {path};
  if (fs::path(path).is_relative()) {
    if (!places.data_root.empty()) candidates.push_back(places.data_root / path);
    if (!places.shipped.empty()) candidates.push_back(places.shipped / path);
  }
  for (const fs::path& candidate : candidates) {
    std::error_code ignored;
    if (fs::exists(candidate, ignored)) return candidate;
  }
  throw DataError("{} is \"{}\", but nothing is there;{} looked for{}", key.name, path,
                  key.choices.empty() ? "" : fmt::format(" it must be {};", key.choices),
                  list_of(candidates));
}

}  // namespace outstep::data
