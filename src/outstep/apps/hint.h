#pragma once

#include <filesystem>
#include <string>

namespace outstep::apps {

// What to do about a run that broke off: "The last checkpoint is …; continue with: outstep resume
// RUN", or how to begin again when there is none.
std::string resume_hint(const std::filesystem::path& run_folder);

}  // namespace outstep::apps
