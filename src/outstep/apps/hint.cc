#include "outstep/apps/hint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "outstep/apps/places.h"
#include "outstep/base/errors.h"
#include "outstep/train/checkpoint.h"

namespace outstep::apps {

bool has_begun(const std::filesystem::path& run_folder) {
  return !run_folder.empty() && std::filesystem::exists(run_folder / "recipe.toml");
}

std::string resume_hint(const std::filesystem::path& run_folder) {
  if (!has_begun(run_folder)) {
    return fmt::format("The run had not begun; start it again with: {} train RECIPE",
                       program_as_typed());
  }
  const auto checkpoints = train::list_checkpoints(run_folder);
  if (checkpoints.empty()) {
    return fmt::format("There is no checkpoint yet; begin again with: {} resume {}",
                       program_as_typed(), run_folder.string());
  }
  return fmt::format("The last checkpoint is {}; continue with: {} resume {}",
                     checkpoints.back().folder.string(), program_as_typed(), run_folder.string());
}

std::string without_lost_hint(const std::filesystem::path& run_folder,
                              const std::vector<int>& lost_ranks, int world_size) try {
  const train::Recipe recipe = train::read_recipe(run_folder / "recipe.toml", {});
  if (recipe.mesh.members == 1) return "";
  std::string who = "a member that is lost";
  std::string lost = fmt::format("{}", fmt::join(recipe.members.lost, ","));
  if (lost_ranks.empty() || world_size != recipe.mesh.size()) {
    lost += lost.empty() ? "NUMBER" : ",NUMBER";
  } else {
    const auto members = recipe.members.of_ranks(recipe.mesh, lost_ranks);
    const train::Members left = recipe.members.without(members);
    if (left.ids.empty()) return "";
    who = train::describe_members(members);
    lost = fmt::format("{}", fmt::join(left.lost, ","));
  }
  return fmt::format("\n  Or without {}: {} resume {} --ensemble.lost=[{}]", who,
                     program_as_typed(), run_folder.string(), lost);
} catch (const Error&) {
  return "";  // the run has not begun
}

}  // namespace outstep::apps
