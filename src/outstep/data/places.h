#pragma once

#include <filesystem>
#include <string>

namespace outstep::data {

// Where data may lie on this machine. Handed in: nothing in this room reads the environment. Each
// may be empty.
struct Places {
  std::filesystem::path data_root;  // the user's data (OUTSTEP_DATA), a folder a set
  std::filesystem::path shipped;    // the samples that come with Outstep
  std::filesystem::path cache;      // tokenised text is kept here; empty: it is made anew each time
};

struct Wanted {
  std::string name;    // as in data.name and `outstep data get NAME`
  std::string folder;  // below data_root, and below shipped unless sample says otherwise
  std::string sample = {};
};

// Where the usual data of that name lies: below data_root, else below shipped.
// Throws DataError: what was looked for, where, and the command that fetches it.
std::filesystem::path find_data(const Wanted& wanted, const Places& places);

// Where a path of a recipe (data.path) lies: as it is, else below data_root, else below shipped.
// Throws DataError naming all places looked at.
std::filesystem::path find_path(const std::string& path, const Places& places);

}  // namespace outstep::data
