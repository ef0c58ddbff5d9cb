#include "outstep/data/image_sets.h"

#include "outstep/base/errors.h"
#include "outstep/data/cifar.h"
#include "outstep/data/idx.h"
#include "outstep/io/files.h"

namespace outstep::data {

namespace fs = std::filesystem;

const std::vector<ImageFacts>& image_sets() {
  static const std::vector<ImageFacts> sets = {
      {.name = "cifar10",
       .wanted = {"cifar10", "cifar-10-batches-bin"},
       .mean = {0.4914, 0.4822, 0.4465},
       .deviation = {0.2470, 0.2435, 0.2616},
       .crop_padding = 4,
       .flip = true,
       .has_files_to_choose = true,
       .class_names = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse",
                       "ship", "truck"}},
      {.name = "cifar100",
       .wanted = {"cifar100", "cifar-100-binary"},
       .mean = {0.5071, 0.4865, 0.4409},
       .deviation = {0.2673, 0.2564, 0.2762},
       .crop_padding = 4,
       .flip = true,
       .has_files_to_choose = true},
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

namespace {

UsualNames usual_cifar(const std::string& name) {
  if (name == "cifar100") return {.train = {"train.bin"}, .validation = {"test.bin"}};
  UsualNames usual{.train = {}, .validation = {"test_batch.bin"}};
  for (int batch = 1; batch <= 5; ++batch) {
    usual.train.push_back(fmt::format("data_batch_{}.bin", batch));
  }
  return usual;
}

// Four batches of five would train, but not on what the user thinks.
void require_all_batches(const ImageFacts& facts, const fs::path& folder, const UsualNames& usual) {
  for (const std::string& name : usual.train) {
    if (io::exists(folder / name)) continue;
    throw DataError(
        "{}: {} is missing; {}.\n"
        "  Fetch the whole set with: outstep data get {}, or name the files to train on in "
        "data.train_files",
        folder.string(), name, contents_of(folder), facts.name);
  }
}

ImagePair open_cifar_pair(const ImageFacts& facts, const fs::path& folder,
                          const WantedFiles& wanted) {
  const UsualNames usual = usual_cifar(facts.name);
  if (wanted.train.empty()) require_all_batches(facts, folder, usual);
  const SplitFiles files = choose_files(folder, wanted, usual);
  if (files.validation.empty()) {
    throw DataError(
        "{}: no file to validate on ({} is missing); {}.\n"
        "  Fetch the whole set with: outstep data get {}, or hold a file out: "
        "--data.valid_files='[\"{}\"]'",
        folder.string(), usual.validation.front(), contents_of(folder), facts.name,
        usual.train.back());
  }
  const CifarKind kind = facts.name == "cifar100" ? CifarKind::cifar100 : CifarKind::cifar10;
  return {.train = open_cifar(kind, files.train), .validation = open_cifar(kind, files.validation)};
}

// The file as it is or compressed.
fs::path find_idx(const ImageFacts& facts, const fs::path& folder, const std::string& stem) {
  for (const char* suffix : {".gz", ""}) {
    if (io::exists(folder / (stem + suffix))) return folder / (stem + suffix);
  }
  throw DataError(
      "{}: neither {}.gz nor {} is there; {}.\n  Fetch the set with: outstep data get {}",
      folder.string(), stem, stem, contents_of(folder), facts.name);
}

ImagePair open_idx_pair(const ImageFacts& facts, const fs::path& folder) {
  const auto open = [&](const std::string& part) {
    return open_idx_images(find_idx(facts, folder, part + "-images-idx3-ubyte"),
                           find_idx(facts, folder, part + "-labels-idx1-ubyte"));
  };
  return {.train = open("train"), .validation = open("t10k")};
}

}  // namespace

ImagePair open_image_pair(const ImageFacts& facts, const fs::path& folder,
                          const WantedFiles& wanted) {
  if (!io::is_folder(folder)) {
    throw ConfigError(
        "data \"{}\" is read from a folder with its files, but data.path is the file {}",
        facts.name, folder.string());
  }
  ImagePair pair = facts.has_files_to_choose ? open_cifar_pair(facts, folder, wanted)
                                             : open_idx_pair(facts, folder);
  if (pair.train.height != pair.validation.height || pair.train.width != pair.validation.width) {
    throw DataError("{}: images to train on are {}×{}, but those to validate on {}×{}",
                    folder.string(), pair.train.height, pair.train.width, pair.validation.height,
                    pair.validation.width);
  }
  return pair;
}

}  // namespace outstep::data
