#include "outstep/apps/hint.h"

#include <fmt/format.h>

#include "outstep/apps/places.h"
#include "outstep/train/checkpoint.h"

namespace outstep::apps {

std::string resume_hint(const std::filesystem::path& run_folder) {
  const auto checkpoints = train::list_checkpoints(run_folder);
  if (checkpoints.empty()) {
    return fmt::format("There is no checkpoint yet; begin again with: {} resume {}",
                       program_as_typed(), run_folder.string());
  }
  return fmt::format("The last checkpoint is {}; continue with: {} resume {}",
                     checkpoints.back().folder.string(), program_as_typed(), run_folder.string());
}

}  // namespace outstep::apps
