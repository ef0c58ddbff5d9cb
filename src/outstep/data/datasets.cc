#include "outstep/data/datasets.h"

#include <algorithm>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/data/bpe_files.h"
#include "outstep/data/cifar.h"
#include "outstep/data/idx.h"
#include "outstep/data/images.h"
#include "outstep/data/tensors.h"
#include "outstep/data/text.h"
#include "outstep/data/token_file.h"
#include "outstep/io/files.h"

namespace outstep::data {
namespace {

namespace fs = std::filesystem;

// ---- What is known about each image set ----

struct ImageFacts {
  std::string name;
  Wanted wanted;
  std::vector<double> mean;
  std::vector<double> deviation;
  int64_t crop_padding;
  bool flip;
  std::vector<std::string> class_names;
};

const std::vector<ImageFacts>& image_sets() {
  static const std::vector<ImageFacts> sets = {
      {.name = "cifar10",
       .wanted = {"cifar10", "cifar-10-batches-bin"},
       .mean = {0.4914, 0.4822, 0.4465},
       .deviation = {0.2470, 0.2435, 0.2616},
       .crop_padding = 4,
       .flip = true,
       .class_names = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse",
                       "ship", "truck"}},
      {.name = "cifar100",
       .wanted = {"cifar100", "cifar-100-binary"},
       .mean = {0.5071, 0.4865, 0.4409},
       .deviation = {0.2673, 0.2564, 0.2762},
       .crop_padding = 4,
       .flip = true,
       .class_names = {}},
      {.name = "fashion_mnist",
       .wanted = {"fashion_mnist", "fashion-mnist", "fashion-mnist-sample"},
       .mean = {0.2860},
       .deviation = {0.3530},
       .crop_padding = 2,
       .flip = true,
       .class_names = {"T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
                       "sneaker", "bag", "ankle boot"}},
      {.name = "mnist",
       .wanted = {"mnist", "mnist"},
       .mean = {0.1307},
       .deviation = {0.3081},
       .crop_padding = 2,
       .flip = false,  // a digit is another one, or none, from behind
       .class_names = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}}};
  return sets;
}

const ImageFacts* find_image_set(const std::string& name) {
  for (const ImageFacts& facts : image_sets()) {
    if (facts.name == name) return &facts;
  }
  return nullptr;
}

bool is_cifar(const std::string& name) { return name == "cifar10" || name == "cifar100"; }

// ---- Which files to train and to validate on ----

struct Files {
  std::vector<fs::path> train;
  std::vector<fs::path> validation;  // empty: a share of train is held out
};

// What a set's files are called, the likeliest first; all of train, the first there of validation.
struct UsualNames {
  std::vector<std::string> train;
  std::vector<std::string> train_else;  // when none of train is there
  std::vector<std::string> validation;
};

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<std::string> those_in(const fs::path& folder, const std::vector<std::string>& names) {
  std::vector<std::string> found;
  for (const std::string& name : names) {
    if (fs::exists(folder / name)) found.push_back(name);
  }
  return found;
}

// "a, b and 3 more": what lies in a folder, for errors.
std::string contents_of(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    names.push_back(entry.path().filename().string());
  }
  if (names.empty()) return "the folder is empty";
  std::sort(names.begin(), names.end());
  constexpr size_t kShown = 8;
  const size_t hidden = names.size() > kShown ? names.size() - kShown : 0;
  names.resize(names.size() - hidden);
  return fmt::format("it holds {}{}", join(names, ", "),
                     hidden > 0 ? fmt::format(" and {} more", hidden) : "");
}

std::vector<fs::path> inside(const fs::path& folder, const std::vector<std::string>& names) {
  std::vector<fs::path> paths;
  for (const std::string& name : names) paths.push_back(folder / name);
  return paths;
}

void refuse_shared_files(const std::vector<std::string>& train,
                         const std::vector<std::string>& valid) {
  for (const std::string& name : train) {
    if (contains(valid, name)) {
      throw ConfigError(
          "data.train_files and data.valid_files both name \"{}\"; validation needs data that is "
          "not "
          "trained on",
          name);
    }
  }
}

Files choose_files(const DataOptions& options, const fs::path& path, const UsualNames& usual) {
  if (!fs::is_directory(path)) {
    if (!options.train_files.empty() || !options.valid_files.empty()) {
      throw ConfigError(
          "data.train_files and data.valid_files are names in a folder, but data.path is the file "
          "{}",
          path.string());
    }
    return {.train = {path}, .validation = {}};
  }
  refuse_shared_files(options.train_files, options.valid_files);
  std::vector<std::string> train = options.train_files;
  std::vector<std::string> valid = options.valid_files;
  if (valid.empty()) {
    valid = those_in(path, usual.validation);
    std::erase_if(valid, [&](const std::string& name) { return contains(train, name); });
    valid.resize(std::min<size_t>(valid.size(), 1));
  }
  if (train.empty()) {
    train = those_in(path, usual.train);
    if (train.empty()) train = those_in(path, usual.train_else);
    std::erase_if(train, [&](const std::string& name) { return contains(valid, name); });
    if (train.empty()) {
      throw DataError("{}: no file to train on ({} expected); {}.\n  data.train_files names others",
                      path.string(), join(usual.train, ", "), contents_of(path));
    }
  }
  return {.train = inside(path, train), .validation = inside(path, valid)};
}

fs::path place_of(const DataOptions& options, const Wanted& wanted, const Places& places) {
  return options.path.empty() ? find_data(wanted, places) : find_path(options.path, places);
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
  std::vector<TokenRow> held_out = {last.slice(cut, last.size())};
  last = last.slice(0, cut);
  return held_out;
}

// Whether a byte begins a character of UTF-8.
bool begins_character(const TokenRow& text, int64_t at) {
  return (std::to_integer<int>(text.bytes()[static_cast<size_t>(at)]) & 0xc0) != 0x80;
}

Datasets open_text(const DataOptions& options, const Places& places) {
  const fs::path path = place_of(options, {"text", "tinyshakespeare"}, places);
  const Files files = choose_files(options, path,
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
  const Files files = choose_files(options, path,
                                   {.train = {"train.bin"},
                                    .train_else = {},
                                    .validation = {"val.bin", "valid.bin", "validation.bin"}});
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

ImageRecords open_cifar_files(const std::string& name, const std::vector<fs::path>& files) {
  return open_cifar(name == "cifar10" ? CifarKind::cifar10 : CifarKind::cifar100, files);
}

UsualNames usual_cifar(const std::string& name) {
  if (name == "cifar100")
    return {.train = {"train.bin"}, .train_else = {}, .validation = {"test.bin"}};
  UsualNames usual{.train = {}, .train_else = {}, .validation = {"test_batch.bin"}};
  for (int batch = 1; batch <= 5; ++batch)
    usual.train.push_back(fmt::format("data_batch_{}.bin", batch));
  return usual;
}

void require_all_batches(const DataOptions& options, const fs::path& folder,
                         const UsualNames& usual) {
  if (!options.train_files.empty()) return;
  for (const std::string& name : usual.train) {
    if (fs::exists(folder / name)) continue;
    throw DataError(
        "{}: {} is missing; {}.\n"
        "  Fetch the whole set with: outstep data get {}, or name the files to train on in "
        "data.train_files",
        folder.string(), name, contents_of(folder), options.name);
  }
}

struct ImagePair {
  ImageRecords train;
  ImageRecords validation;
};

ImagePair open_cifar_pair(const DataOptions& options, const fs::path& path) {
  const UsualNames usual = usual_cifar(options.name);
  require_all_batches(options, path, usual);
  const Files files = choose_files(options, path, usual);
  if (files.validation.empty()) {
    throw DataError(
        "{}: no file to validate on ({} is missing); {}.\n"
        "  Fetch the whole set with: outstep data get {}, or hold a file out: "
        "--data.valid_files='[\"{}\"]'",
        path.string(), usual.validation.front(), contents_of(path), options.name,
        usual.train.back());
  }
  return {.train = open_cifar_files(options.name, files.train),
          .validation = open_cifar_files(options.name, files.validation)};
}

// The file as it is or compressed.
fs::path find_idx(const fs::path& folder, const std::string& stem, const std::string& name) {
  for (const char* suffix : {".gz", ""}) {
    if (fs::exists(folder / (stem + suffix))) return folder / (stem + suffix);
  }
  throw DataError(
      "{}: neither {}.gz nor {} is there; {}.\n  Fetch the set with: outstep data get {}",
      folder.string(), stem, stem, contents_of(folder), name);
}

ImagePair open_idx_pair(const DataOptions& options, const fs::path& path) {
  const auto open = [&](const std::string& part) {
    return open_idx_images(find_idx(path, part + "-images-idx3-ubyte", options.name),
                           find_idx(path, part + "-labels-idx1-ubyte", options.name));
  };
  return {.train = open("train"), .validation = open("t10k")};
}

Datasets open_images(const DataOptions& options, const Places& places) {
  const ImageFacts& facts = *find_image_set(options.name);
  const fs::path path = place_of(options, facts.wanted, places);
  if (!fs::is_directory(path)) {
    throw ConfigError(
        "data \"{}\" is read from a folder with its files, but data.path is the file {}",
        options.name, path.string());
  }
  ImagePair pair =
      is_cifar(options.name) ? open_cifar_pair(options, path) : open_idx_pair(options, path);
  const ImageRecords& shape = pair.train;
  if (shape.height != pair.validation.height || shape.width != pair.validation.width) {
    throw DataError("{}: images to train on are {}×{}, but those to validate on {}×{}",
                    path.string(), shape.height, shape.width, pair.validation.height,
                    pair.validation.width);
  }
  ImageOptions images{.mean = options.mean.empty() ? facts.mean : options.mean,
                      .deviation = options.deviation.empty() ? facts.deviation : options.deviation,
                      .crop_padding = options.crop_padding,
                      .flip = options.flip};
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
  const Files files = choose_files(options, path,
                                   {.train = {"train.safetensors"},
                                    .train_else = {},
                                    .validation = {"valid.safetensors", "val.safetensors"}});
  auto train = open_single(files.train, "train_files");
  std::shared_ptr<const TensorDataset> validation;
  if (files.validation.empty()) {
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
  if (train->input_shape() != validation->input_shape() || train->unit() != validation->unit()) {
    throw DataError("{}: examples to train on are {}, but those to validate on {}", path.string(),
                    train->describe(), validation->describe());
  }
  Datasets data;
  data.unit = train->unit();
  const int64_t num_classes = std::max(train->num_classes(), validation->num_classes());
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
  if (has_split || is_cifar(options.name)) {
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
  }
  options.augment = options.name == "tensors" ? false : data.flag("augment", options.augment);
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
  return open_bpe(find_path(tokenizer, places));
}

}  // namespace outstep::data
