#pragma once

#include <filesystem>

namespace outstep::apps {

// Throws DataError where a model must not be written: a folder that holds one, and whatever is or
// lies in the folder of a run or a checkpoint, which would take the model for its own.
void require_place_for_model(const std::filesystem::path& to);

}  // namespace outstep::apps
