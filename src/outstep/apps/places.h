#pragma once

#include <filesystem>
#include <string>

#include "outstep/data/places.h"

// Where things lie on this machine, as the environment and the program's own place say.

namespace outstep::apps {

// data_root is OUTSTEP_DATA; the samples lie in share_dir()/data; the cache in
// XDG_CACHE_HOME/outstep or HOME/.cache/outstep, or nowhere.
data::Places places_of_machine();

// This program's own file, to start it once more.
std::filesystem::path program_path();

// A recipe as a person names it: a file, or the name of one that comes with Outstep ("quickstart").
// Throws ConfigError with the nearest spelling.
std::filesystem::path find_recipe(const std::string& wanted);

// How a person would type this program again: "./outstep" in its source tree, else "outstep".
std::string program_as_typed();

}  // namespace outstep::apps
