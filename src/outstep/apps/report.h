#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "outstep/apps/failure.h"

// What a rank tells the launcher that started it, over the pipe named by OUTSTEP_REPORT: how it
// failed, and where its run lies. Elsewhere (alone, torchrun, mpirun, srun) there is no one to tell
// and the calls return false.

namespace outstep::apps {

bool report_failure(const Failure& failure);
bool report_run_folder(const std::filesystem::path& folder);

// One line of that pipe, on the launcher's side.
struct Report {
  std::optional<Failure> failure;
  std::string run_folder;
};
Report read_report(std::string_view line);

}  // namespace outstep::apps
