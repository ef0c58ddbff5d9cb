#pragma once

#include <filesystem>
#include <string>

#include "outstep/comm/group.h"

namespace outstep::train {

// Makes runs/NAME-TIME (or the folder asked for) with metrics/ and checkpoints/ in it. Throws
// DataError if it exists and holds a run already, or cannot be written.
std::filesystem::path make_run_folder(const std::filesystem::path& wanted,
                                      const std::string& recipe_name);

// The same for a world of ranks: rank 0 makes the folder, every rank gets its name or throws rank
// 0's error. The folder must be on a disk that all ranks share.
std::filesystem::path make_run_folder(const std::filesystem::path& wanted,
                                      const std::string& recipe_name, comm::Group& world);

// What a command means by RUN: a run's folder, a checkpoint's folder, or a folder in Hugging Face's
// form. Throws DataError telling what is missing.
enum class FolderKind { run, checkpoint, model };
FolderKind folder_kind(const std::filesystem::path& folder);

}  // namespace outstep::train
