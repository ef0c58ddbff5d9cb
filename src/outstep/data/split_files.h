#pragma once

#include <filesystem>
#include <string>
#include <vector>

// Which files of a folder are trained on, and which validated on.

namespace outstep::data {

// What a set's files are usually called.
struct UsualNames {
  std::vector<std::string> train;            // all that are there
  std::vector<std::string> train_else = {};  // when none of train is there
  std::vector<std::string> validation = {};  // the first that is there
};

// What the recipe says (data.train_files, data.valid_files); empty: the usual ones.
struct WantedFiles {
  std::vector<std::string> train = {};
  std::vector<std::string> validation = {};
};

struct SplitFiles {
  std::vector<std::filesystem::path> train;
  std::vector<std::filesystem::path> validation;  // empty: a share of train is to be held out
};

// A path that is no folder is the one file to train on. What is validated on is left out of the
// usual files of training. Throws DataError when nothing is there to train on; ConfigError for a
// file named twice, or names where there is no folder.
SplitFiles choose_files(const std::filesystem::path& path, const WantedFiles& wanted,
                        const UsualNames& usual);

// "it holds a, b and 3 more": what lies in a folder, for errors.
std::string contents_of(const std::filesystem::path& folder);

}  // namespace outstep::data
