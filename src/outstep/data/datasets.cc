#include "outstep/data/datasets.h"

#include <algorithm>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/data/bpe_files.h"
#include "outstep/data/image_sets.h"
#include "outstep/data/images.h"
#include "outstep/data/split_files.h"
#include "outstep/data/tensors.h"
#include "outstep/data/text.h"
#include "outstep/data/token_file.h"

namespace outstep::data {
namespace {

namespace fs = std::filesystem;

fs::path place_of(const DataOptions& options, const Wanted& wanted, const Places& places) {
  return options.path.empty() ? find_data(wanted, places) : find_path(options.path, places);
}

WantedFiles files_of(const DataOptions& options) {
  return {.train = options.train_files, .validation = options.valid_files};
}

// ---- Text and tokens ----

// Where the held-out share of `size` begins.
int64_t cut_at(int64_t size, double valid_fraction) {
  return static_cast<int64_t>(static_cast<double>(size) * (1 - valid_fraction));
}

Datasets token_datasets(std::vector<TokenRow> train, std::vector<TokenRow> validation,
                        const WindowOptions& windows) {
  Datasets data;
  data.train = std::make_shared<TokenWindows>(std::move(train), windows);
  data.validation = std::make_shared<TokenWindows>(std::move(validation), windows);
  data.unit = "tokens";
  data.vocab_size = windows.vocab_size;
  data.input_shape = {windows.n_positions};
  return data;
}

// The last row is cut in two, the end held out; `is_start` says whether a token may begin a part.
template <typename IsStart>
std::vector<TokenRow> hold_out(std::vector<TokenRow>& rows, double fraction, IsStart is_start) {
  TokenRow& last = rows.back();
  int64_t cut = cut_at(last.size(), fraction);
  while (cut > 0 && cut < last.size() && !is_start(last, cut)) --cut;
  std::vector<TokenRow> held_out = {last.slice(
      cut, last.size(), fmt::format("{} (its last {:.3g} %)", last.name(), 100 * fraction))};
  last = last.slice(0, cut, last.name());
  return held_out;
}

// Whether a byte begins a character of UTF-8.
bool begins_character(const TokenRow& text, int64_t at) {
  return (std::to_integer<int>(text.bytes()[static_cast<size_t>(at)]) & 0xc0) != 0x80;
}

Datasets open_text(const DataOptions& options, const Places& places) {
  const fs::path path = place_of(options, {"text", "tinyshakespeare"}, places);
  const SplitFiles files = choose_files(path, files_of(options),
                                        {.train = {"train.txt"},
                                         .train_else = {"input.txt"},
                                         .validation = {"valid.txt", "val.txt", "validation.txt"}});
  const auto tokenizer = open_tokenizer(options.tokenizer, places);
  std::vector<TokenRow> train;
  std::vector<TokenRow> validation;
  for (const fs::path& file : files.train) train.push_back(TokenRow::of_text(file));
  for (const fs::path& file : files.validation) validation.push_back(TokenRow::of_text(file));
  if (validation.empty()) validation = hold_out(train, options.valid_fraction, begins_character);
  if (options.tokenizer != "bytes") {
    for (auto* rows : {&train, &validation}) {
      for (TokenRow& row : *rows) {
        const auto bytes = row.bytes();
        const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        row = tokenize(text, row.name(), *tokenizer, places.cache);
      }
    }
  }
  Datasets data =
      token_datasets(std::move(train), std::move(validation),
                     {.n_positions = options.n_positions, .vocab_size = tokenizer->vocab_size()});
  data.tokenizer = tokenizer;
  data.path = path;
  return data;
}

Datasets open_tokens(const DataOptions& options, const Places& places) {
  const fs::path path = place_of(options, {"tokens", ""}, places);
  const SplitFiles files = choose_files(
      path, files_of(options),
      {.train = {"train.bin"}, .validation = {"val.bin", "valid.bin", "validation.bin"}});
  std::vector<TokenRow> train;
  std::vector<TokenRow> validation;
  for (const fs::path& file : files.train) train.push_back(open_token_file(file));
  for (const fs::path& file : files.validation) validation.push_back(open_token_file(file));
  if (validation.empty()) {
    validation =
        hold_out(train, options.valid_fraction, [](const TokenRow&, int64_t) { return true; });
  }
  Datasets data =
      token_datasets(std::move(train), std::move(validation),
                     {.n_positions = options.n_positions, .vocab_size = options.vocab_size});
  data.path = path;
  return data;
}

// ---- Images ----

Datasets open_images(const DataOptions& options, const Places& places) {
  const ImageFacts& facts = *find_image_set(options.name);
  const fs::path path = place_of(options, facts.wanted, places);
  ImagePair pair = open_image_pair(facts, path, files_of(options));
  const ImageRecords& shape = pair.train;
  ImageOptions images{.mean = options.mean.empty() ? facts.mean : options.mean,
                      .deviation = options.deviation.empty() ? facts.deviation : options.deviation,
                      .crop_padding = options.crop_padding,
                      .flip = options.flip,
                      .mixup = options.mixup,
                      .cutmix = options.cutmix,
                      .random_erasing = options.random_erasing};
  Datasets data;
  data.unit = "images";
  data.num_classes = shape.num_classes;
  data.input_shape = {shape.channels, shape.height, shape.width};
  data.class_names = facts.class_names;
  data.path = path;
  data.train = std::make_shared<ImageDataset>(std::move(pair.train), images);
  data.validation = std::make_shared<ImageDataset>(std::move(pair.validation), images);
  return data;
}

// ---- Tensors ----

// One of the files a tensor set may have; they are not joined.
std::shared_ptr<const TensorDataset> open_single(const std::vector<fs::path>& files,
                                                 const char* key) {
  if (files.size() != 1)
    throw ConfigError("data.{} names {} files; tensors need one", key, files.size());
  return std::make_shared<const TensorDataset>(files.front());
}

Datasets open_tensors(const DataOptions& options, const Places& places) {
  const fs::path path = place_of(options, {"tensors", ""}, places);
  const SplitFiles files = choose_files(
      path, files_of(options),
      {.train = {"train.safetensors"}, .validation = {"valid.safetensors", "val.safetensors"}});
  auto train = open_single(files.train, "train_files");
  std::shared_ptr<const TensorDataset> validation;
  if (files.validation.empty() && train->micro_batch() > 0) {
    // To be repeated as it stands, to the last example.
  } else if (files.validation.empty()) {
    const int64_t cut = cut_at(train->size(), options.valid_fraction);
    if (cut < 1 || cut >= train->size()) {
      throw DataError("{}: {} examples cannot be cut into a training and a validation set",
                      path.string(), train->size());
    }
    validation = std::make_shared<const TensorDataset>(train->slice(cut, train->size()));
    train = std::make_shared<const TensorDataset>(train->slice(0, cut));
  } else {
    validation = open_single(files.validation, "valid_files");
  }
  if (validation &&
      (train->input_shape() != validation->input_shape() || train->unit() != validation->unit())) {
    throw DataError("{}: examples to train on are {}, but those to validate on {}", path.string(),
                    train->describe(), validation->describe());
  }
  Datasets data;
  data.unit = train->unit();
  const int64_t num_classes =
      std::max(train->num_classes(), validation ? validation->num_classes() : 0);
  data.micro_batch = train->micro_batch();
  (train->is_tokens() ? data.vocab_size : data.num_classes) = num_classes;
  data.input_shape = train->input_shape();
  data.path = path;
  data.train = std::move(train);
  data.validation = std::move(validation);
  return data;
}

}  // namespace

std::vector<std::string> dataset_names() {
  std::vector<std::string> names = {"text", "tokens"};
  for (const ImageFacts& facts : image_sets()) names.push_back(facts.name);
  names.push_back("tensors");
  return names;
}

DataOptions read_data_options(io::Section data, int64_t n_positions) {
  DataOptions options;
  options.name = data.text("name", options.name, {.choices = dataset_names()});
  options.path = data.text("path", options.path);
  options.shuffle = data.flag("shuffle", options.shuffle);
  options.prefetch = data.integer("prefetch", options.prefetch, {.min = 0, .max = 1024});
  const ImageFacts* images = find_image_set(options.name);
  const bool has_split = images == nullptr;
  if (has_split || images->has_files_to_choose) {
    options.train_files = data.texts("train_files", {});
    options.valid_files = data.texts("valid_files", {});
  }
  if (has_split) {
    options.valid_fraction =
        data.number("valid_fraction", options.valid_fraction, {.min = 0.0001, .max = 0.9});
  }
  if (options.name == "text" || options.name == "tokens") options.n_positions = n_positions;
  if (options.name == "text") options.tokenizer = data.text("tokenizer", options.tokenizer);
  if (options.name == "tokens") {
    options.vocab_size =
        data.integer("vocab_size", options.vocab_size, {.min = 1, .max = int64_t{1} << 31});
  }
  if (images != nullptr) {
    options.mean = data.numbers("mean", images->mean);
    options.deviation = data.numbers("deviation", images->deviation);
    options.crop_padding =
        data.integer("crop_padding", images->crop_padding, {.min = 0, .max = 1024});
    options.flip = data.flag("flip", images->flip);
    const io::NumberBounds alpha{.min = 0, .max = 100};
    options.mixup = data.number("mixup", options.mixup, alpha);
    options.cutmix = data.number("cutmix", options.cutmix, alpha);
    options.random_erasing =
        data.number("random_erasing", options.random_erasing, {.min = 0, .max = 1});
  }
  options.augment = options.name == "tensors" ? false : data.flag("augment", options.augment);
  if (options.augment) return options;
  for (const auto& [key, value] : {std::pair("mixup", options.mixup),
                                   {"cutmix", options.cutmix},
                                   {"random_erasing", options.random_erasing}}) {
    if (value == 0) continue;
    throw ConfigError(
        "{}: data.{} = {} is a kind of augmentation, and data.augment is false; set it to 0, or "
        "data.crop_padding = 0 and data.flip = false in place of data.augment = false",
        data.origin(key), key, value);
  }
  return options;
}

Datasets open_datasets(const DataOptions& options, const Places& places) {
  if (options.name == "text") return open_text(options, places);
  if (options.name == "tokens") return open_tokens(options, places);
  if (options.name == "tensors") return open_tensors(options, places);
  if (find_image_set(options.name) != nullptr) return open_images(options, places);
  throw ConfigError("data.name is \"{}\"; it must be one of {}", options.name,
                    join(dataset_names(), ", "));
}

std::shared_ptr<const Tokenizer> open_tokenizer(const std::string& tokenizer,
                                                const Places& places) {
  if (tokenizer == "bytes") return std::make_shared<ByteTokenizer>();
  if (tokenizer == "gpt2") return open_bpe(find_data({"gpt2-bpe", "gpt2-bpe"}, places));
  return open_bpe(find_path(tokenizer, places,
                            {.name = "the tokenizer (data.tokenizer, --tokenizer)",
                             .choices = "\"bytes\", \"gpt2\", or a folder with a vocabulary"}));
}

}  // namespace outstep::data
