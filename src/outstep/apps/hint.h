#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace outstep::apps {

// Whether there is a run to go on with. The folder is made before, and may be empty (none yet).
bool has_begun(const std::filesystem::path& run_folder);

// What to do about a run that broke off: "The last checkpoint is …; continue with: outstep resume
// RUN", or how to begin again when there is none.
std::string resume_hint(const std::filesystem::path& run_folder);

// The other way to go on with a population: a line, to be put behind the above, that names the
// command without the members whose ranks are lost. Empty for a run of one model, or if nobody is
// left. lost_ranks: of a world of this size; where none is known, or the world is not of the run's
// ranks, the command leaves the number open.
std::string without_lost_hint(const std::filesystem::path& run_folder,
                              const std::vector<int>& lost_ranks = {}, int world_size = 0);

}  // namespace outstep::apps
