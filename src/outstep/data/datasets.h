#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "outstep/data/dataset.h"
#include "outstep/data/places.h"
#include "outstep/data/tokenizer.h"
#include "outstep/io/settings.h"

// From a recipe's [data] to a training and a validation set.
//
//   DataOptions options = read_data_options(settings.section("data"), n_positions);
//   Datasets data = open_datasets(options, {.data_root = …, .shipped = …, .cache = …});
//   Stream stream(data.train, {.shuffle = options.shuffle, .augment = options.augment});

namespace outstep::data {

struct DataOptions {
  std::string name = "text";  // one of dataset_names()
  // A folder or, for text, tokens and tensors, a single file. As it is; else below data_root or the
  // shipped samples. Empty: the usual set of that name.
  std::string path = {};
  // Files of the folder to train on and to validate on. Empty: the usual ones; what is validated on
  // is then left out of training, so valid_files = ["data_batch_5.bin"] holds that batch out.
  std::vector<std::string> train_files = {};
  std::vector<std::string> valid_files = {};
  // Text, tokens, tensors: the share held out, from the end, when no file is there to validate on.
  double valid_fraction = 0.1;

  int64_t n_positions = 0;          // tokens of a window; text and tokens only
  std::string tokenizer = "bytes";  // text: "bytes", "gpt2", or a folder with a vocabulary
  int64_t vocab_size = 50257;       // tokens: ids are below it

  // Images. mean and deviation are of values in [0, 1]; empty: the set's own.
  std::vector<double> mean = {};
  std::vector<double> deviation = {};
  // Pixels of black around an image that is cropped at random; 0: no crop.
  int64_t crop_padding = 4;
  bool flip = true;  // left to right, every other image

  double mixup = 0;           // images: alpha (augment.h); 0: none
  double cutmix = 0;          // likewise
  double random_erasing = 0;  // images: its probability

  // False: images as they are, windows of text always at the same places.
  bool augment = true;
  bool shuffle = true;
  int64_t prefetch = 2;  // micro-batches made ahead
};

struct Datasets {
  std::shared_ptr<const Dataset> train;
  std::shared_ptr<const Dataset> validation;
  std::shared_ptr<const Tokenizer> tokenizer;  // of text; null otherwise
  std::string unit;                  // "tokens", "images" or "samples": what losses are means over
  int64_t vocab_size = 0;            // of tokens; 0 otherwise
  int64_t num_classes = 0;           // of images and samples; 0 for tokens
  std::vector<int64_t> input_shape;  // of one example: [T], [C, H, W], …
  int64_t micro_batch = 0;  // examples in one, of a file of micro-batches to be read in order
  std::vector<std::string> class_names;  // by class; may be empty
  std::filesystem::path path;            // what was opened
};

std::vector<std::string> dataset_names();

// Reads the keys of [data] that the set knows: for text those of text, for images those of images,
// so that a key of another kind of set is refused as unknown. n_positions is the model's.
DataOptions read_data_options(io::Section data, int64_t n_positions);

// Throws DataError: what was looked for, where, and the command that fetches it; or what is wrong
// with the file. Throws ConfigError for options that contradict one another.
Datasets open_datasets(const DataOptions& options, const Places& places);

// "bytes", "gpt2" (found as sets are), or a folder or tokenizer.json.
std::shared_ptr<const Tokenizer> open_tokenizer(const std::string& tokenizer, const Places& places);

}  // namespace outstep::data
