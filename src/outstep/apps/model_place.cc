#include "outstep/apps/model_place.h"

#include <fmt/format.h>

#include <string>

#include "outstep/base/errors.h"

namespace outstep::apps {
namespace {

namespace fs = std::filesystem;

// "run" or "checkpoint"; of neither nothing. Either is told by two of its entries, as one of them
// may have its name by chance.
std::string kind_of(const fs::path& folder) {
  if (fs::exists(folder / "recipe.toml") && fs::is_directory(folder / "checkpoints")) return "run";
  if (fs::exists(folder / "DONE") && fs::exists(folder / "manifest.json")) return "checkpoint";
  return "";
}

void require_outside(const fs::path& to) {
  std::error_code error;
  fs::path folder = fs::weakly_canonical(fs::absolute(to), error);
  if (error) folder = fs::absolute(to);
  for (bool is_inside = false;; is_inside = true) {
    if (const std::string kind = kind_of(folder); !kind.empty()) {
      throw DataError("{} {} a {}, which would take the model for its own; take another --to",
                      to.string(), is_inside ? fmt::format("lies in {},", folder.string()) : "is",
                      kind);
    }
    if (folder == folder.parent_path()) return;
    folder = folder.parent_path();
  }
}

}  // namespace

void require_place_for_model(const fs::path& to) {
  if (fs::exists(to) && !fs::is_directory(to)) throw DataError("{} is not a folder", to.string());
  require_outside(to);
  for (const char* entry : {"model.safetensors", "model.safetensors.index.json", "config.json",
                            "recipe.toml", "manifest.json", "checkpoints"}) {
    if (!fs::exists(to / entry)) continue;
    throw DataError("{} holds {}{} already; take another --to, or remove it first", to.string(),
                    fs::is_directory(to / entry) ? "" : "a ", entry);
  }
}

}  // namespace outstep::apps
