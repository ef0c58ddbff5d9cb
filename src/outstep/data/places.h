#pragma once

#include <filesystem>
#include <string>

namespace outstep::data {

// Where data may lie on this machine. Handed in: nothing in this room reads the environment. Each
// may be empty.
struct Places {
  std::filesystem::path data_root;  // the user's data (OUTSTEP_DATA, else data/), a folder a set
  std::filesystem::path shipped;    // the samples that come with Outstep
  std::filesystem::path cache;      // tokenised text is kept here; empty: it is made anew each time
};

struct Wanted {
  std::string name;    // as in data.name and `outstep data get NAME`
  std::string folder;  // below data_root, and below shipped unless sample says otherwise
  std::string sample = {};
};

// Whether something is there that can be read as data: a file, or a folder in which there is more
// than a fetch that was cut off leaves (an archive, parts of files).
bool holds_data(const std::filesystem::path& path);

// Where the usual data of that name lies: the first of data_root and shipped whose folder holds
// data. Throws DataError: what was looked for, where, and the command that fetches it.
std::filesystem::path find_data(const Wanted& wanted, const Places& places);

// Who names a path, for errors.
struct PathKey {
  std::string name = "data.path";
  std::string choices = {};  // what it may be beside a path: "it must be …"
};

// Where a path of a recipe lies: as it is, else below data_root, else below shipped.
// Throws DataError naming the key and all places looked at.
std::filesystem::path find_path(const std::string& path, const Places& places,
                                const PathKey& key = {});

}  // namespace outstep::data
