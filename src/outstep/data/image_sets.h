#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "outstep/data/images.h"
#include "outstep/data/places.h"
#include "outstep/data/split_files.h"

// The image sets that Outstep knows by name.

namespace outstep::data {

// What is usual for a set; a recipe may say otherwise.
struct ImageFacts {
  std::string name;  // as in data.name
  Wanted wanted;     // where it lies
  std::vector<double> mean;
  std::vector<double> deviation;
  int64_t crop_padding = 0;
  bool flip = false;
  bool has_files_to_choose = false;  // data.train_files and data.valid_files
  std::vector<std::string> class_names = {};
};

const std::vector<ImageFacts>& image_sets();
// Null if there is none of that name.
const ImageFacts* find_image_set(const std::string& name);

struct ImagePair {
  ImageRecords train;
  ImageRecords validation;
};

// Opens the files of a set in its folder. Throws DataError: a file missing (what is there instead,
// and the command that fetches it), or whatever is wrong with one; training and validation images
// of different sizes.
ImagePair open_image_pair(const ImageFacts& facts, const std::filesystem::path& folder,
                          const WantedFiles& wanted);

}  // namespace outstep::data
