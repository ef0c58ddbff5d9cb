#pragma once

#include <filesystem>

namespace outstep::apps {

// Throws DataError where a model must not be written: a folder that holds one or a recipe, which
// the model would be taken to be of, and whatever is or lies in the folder of a run or a
// checkpoint, which would take the model for its own.
void require_place_for_model(const std::filesystem::path& to);

}  // namespace outstep::apps
