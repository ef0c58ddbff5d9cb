#include "outstep/data/places.h"

#include <vector>

#include "outstep/base/errors.h"

namespace outstep::data {
namespace {

namespace fs = std::filesystem;

// The first that is there, or an empty path.
fs::path first_existing(const std::vector<fs::path>& candidates) {
  for (const fs::path& candidate : candidates) {
    std::error_code ignored;
    if (fs::exists(candidate, ignored)) return candidate;
  }
  return {};
}

std::string list_of(const std::vector<fs::path>& candidates) {
  std::string text;
  for (const fs::path& candidate : candidates) text += fmt::format("\n    {}", candidate.string());
  return text;
}

}  // namespace

fs::path find_data(const Wanted& wanted, const Places& places) {
  if (wanted.folder.empty()) {
    throw ConfigError("data \"{}\" needs data.path, the file or folder to read", wanted.name);
  }
  const std::string& sample = wanted.sample.empty() ? wanted.folder : wanted.sample;
  std::vector<fs::path> candidates;
  if (!places.data_root.empty()) candidates.push_back(places.data_root / wanted.folder);
  if (!places.shipped.empty()) candidates.push_back(places.shipped / sample);
  const fs::path found = first_existing(candidates);
  if (!found.empty()) return found;
  throw DataError(
      "the data \"{0}\" is not on this machine; looked for{1}\n"
      "  Fetch it with: outstep data get {0}\n"
      "  or say where it lies: --data.path=FOLDER, or OUTSTEP_DATA=FOLDER with {2} in it",
      wanted.name, list_of(candidates), wanted.folder);
}

fs::path find_path(const std::string& path, const Places& places) {
  std::vector<fs::path> candidates = {path};
  if (fs::path(path).is_relative()) {
    if (!places.data_root.empty()) candidates.push_back(places.data_root / path);
    if (!places.shipped.empty()) candidates.push_back(places.shipped / path);
  }
  const fs::path found = first_existing(candidates);
  if (!found.empty()) return found;
  throw DataError("data.path is \"{}\", but nothing is there; looked for{}", path,
                  list_of(candidates));
}

}  // namespace outstep::data
