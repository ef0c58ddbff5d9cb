#include "outstep/apps/places.h"

#include <algorithm>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/base/version.h"
#include "outstep/comm/launch.h"

namespace outstep::apps {
namespace {

namespace fs = std::filesystem;

fs::path cache_folder() {
  if (const auto cache = comm::environment_variable("XDG_CACHE_HOME"); cache && !cache->empty()) {
    return fs::path(*cache) / "outstep";
  }
  if (const auto home = comm::environment_variable("HOME"); home && !home->empty()) {
    return fs::path(*home) / ".cache" / "outstep";
  }
  return {};
}

std::vector<std::string> shipped_recipes() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(share_dir() / "recipes", error)) {
    if (entry.path().extension() == ".toml") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

data::Places places_of_machine() {
  // Without the variable, data/ of the present folder: there `outstep data get` puts it, too.
  const auto data = comm::environment_variable("OUTSTEP_DATA");
  return {.data_root = data && !data->empty() ? *data : "data",
          .shipped = share_dir() / "data",
          .cache = cache_folder()};
}

fs::path program_path() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (error) throw ConfigError("cannot find this program's own file: {}", error.message());
  return program;
}

fs::path find_recipe(const std::string& wanted) {
  if (fs::is_regular_file(wanted)) return wanted;
  const fs::path shipped = share_dir() / "recipes" / (wanted + ".toml");
  if (wanted.find('/') == wanted.npos && fs::is_regular_file(shipped)) return shipped;
  const std::vector<std::string> names = shipped_recipes();
  const std::string nearest = nearest_spelling(fs::path(wanted).stem().string(), names);
  throw ConfigError("there is no recipe \"{}\"{}; those that come with Outstep are {}", wanted,
                    nearest.empty() ? "" : fmt::format("; did you mean \"{}\"?", nearest),
                    names.empty() ? "missing" : join(names, ", "));
}

std::string program_as_typed() { return fs::is_regular_file("outstep") ? "./outstep" : "outstep"; }

}  // namespace outstep::apps
