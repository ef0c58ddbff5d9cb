#include "outstep/data/datasets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "outstep/base/errors.h"
#include "outstep/data/stream.h"
#include "outstep/data/testing.h"
#include "outstep/data/text.h"
#include "outstep/data/token_file.h"
#include "outstep/io/safetensors.h"
#include "outstep/io/settings.h"

namespace outstep::data {
namespace {

using testing::data_error;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;
using testing::TempFolder;

Places shipped() { return {.data_root = {}, .shipped = testing::shipped_samples(), .cache = {}}; }

int64_t num_tokens(const Dataset& dataset) {
  return dynamic_cast<const TokenWindows&>(dataset).num_tokens();
}

// ---- Options ----

DataOptions options_of(const std::string& toml) {
  auto settings = io::Settings::from_text("[data]\n" + toml);
  const DataOptions options = read_data_options(settings.section("data"), 64);
  settings.require_all_used();
  return options;
}

TEST(DataOptions, HaveDefaultsForEachSet) {
  const DataOptions text = options_of("");
  EXPECT_EQ(text.name, "text");
  EXPECT_EQ(text.n_positions, 64);
  EXPECT_TRUE(text.augment && text.shuffle);
  const DataOptions cifar = options_of("name = \"cifar10\"");
  EXPECT_EQ(cifar.crop_padding, 4);
  EXPECT_TRUE(cifar.flip);
  EXPECT_THAT(cifar.mean, ElementsAre(0.4914, 0.4822, 0.4465));
  EXPECT_FALSE(options_of("name = \"mnist\"").flip);
  EXPECT_FALSE(options_of("name = \"tensors\"").augment);
}

TEST(DataOptions, AreRead) {
  const DataOptions cifar = options_of(
      "name = \"cifar10\"\npath = \"x\"\nvalid_files = [\"data_batch_5.bin\"]\ncrop_padding = "
      "2\nflip = false\n"
      "mean = [0.5, 0.5, 0.5]\nprefetch = 0\nshuffle = false\naugment = false");
  EXPECT_EQ(cifar.path, "x");
  EXPECT_THAT(cifar.valid_files, ElementsAre("data_batch_5.bin"));
  EXPECT_EQ(cifar.crop_padding, 2);
  EXPECT_FALSE(cifar.flip || cifar.shuffle || cifar.augment);
  EXPECT_EQ(cifar.mean[0], 0.5);
  EXPECT_EQ(cifar.prefetch, 0);
  EXPECT_EQ(options_of("name = \"tokens\"\nvocab_size = 128256").vocab_size, 128256);
  EXPECT_EQ(options_of("tokenizer = \"gpt2\"\nvalid_fraction = 0.2").valid_fraction, 0.2);
}

TEST(DataOptions, AugmentationIsReadAndItsRangesHeld) {
  const DataOptions cifar =
      options_of("name = \"cifar10\"\nmixup = 0.5\ncutmix = 1\nrandom_erasing = 0.35");
  EXPECT_EQ(cifar.mixup, 0.5);
  EXPECT_EQ(cifar.cutmix, 1);
  EXPECT_EQ(cifar.random_erasing, 0.35);
  EXPECT_EQ(options_of("name = \"cifar10\"").mixup, 0);
  const auto complaint = [](const std::string& keys) {
    return message_of<ConfigError>([&] { options_of("name = \"cifar10\"\n" + keys); });
  };
  EXPECT_THAT(complaint("mixup = -0.5"), HasSubstr("data.mixup is -0.5"));
  EXPECT_THAT(complaint("cutmix = 1000"), HasSubstr("data.cutmix is 1000"));
  EXPECT_THAT(complaint("random_erasing = 1.5"), HasSubstr("data.random_erasing is 1.5"));
  EXPECT_THAT(complaint("cutmix = 1\naugment = false"),
              HasSubstr("data.cutmix = 1 is a kind of augmentation, and data.augment is false"));
  EXPECT_THAT(message_of<ConfigError>([] { options_of("mixup = 1"); }), HasSubstr("mixup"));
}

TEST(DataOptions, KeysOfAnotherKindOfSetAreUnknown) {
  EXPECT_THAT(message_of<ConfigError>([] { options_of("flip = true"); }), HasSubstr("flip"));
  EXPECT_THAT(message_of<ConfigError>([] { options_of("name = \"mnist\"\ntokenizer = \"gpt2\""); }),
              HasSubstr("tokenizer"));
  EXPECT_THAT(message_of<ConfigError>([] { options_of("name = \"cifar\""); }),
              HasSubstr("cifar10"));
}

// ---- Where data lies ----

TEST(OpenDatasets, TakesTheShippedSample) {
  const Datasets data = open_datasets({.name = "text", .n_positions = 128}, shipped());
  EXPECT_EQ(data.path, testing::shipped_samples() / "tinyshakespeare");
  EXPECT_EQ(data.unit, "tokens");
  EXPECT_EQ(data.vocab_size, 256);
  EXPECT_EQ(data.num_classes, 0);
  EXPECT_THAT(data.input_shape, ElementsAre(128));
  EXPECT_EQ(data.train->describe(), "1,003,854 tokens in windows of 128");
  EXPECT_EQ(data.validation->describe(), "55,770 tokens in windows of 128");
  EXPECT_EQ(data.train->size(), 7842);
  EXPECT_EQ(data.tokenizer->describe(), "bytes");
}

TEST(OpenDatasets, PrefersTheUsersData) {
  TempFolder folder;
  folder.write("tinyshakespeare/train.txt", "my own words");
  folder.write("tinyshakespeare/valid.txt", "and these");
  Places places = shipped();
  places.data_root = folder.path();
  const Datasets data = open_datasets({.name = "text", .n_positions = 4}, places);
  EXPECT_EQ(num_tokens(*data.train), 12);
}

TEST(OpenDatasets, PassesOverWhatAFailedFetchLeft) {
  TempFolder folder;
  Places places = shipped();
  places.data_root = folder.path();
  const auto opened = [&] {
    return open_datasets({.name = "text", .n_positions = 4}, places).path;
  };
  std::filesystem::create_directory(folder.path() / "tinyshakespeare");
  EXPECT_EQ(opened(), testing::shipped_samples() / "tinyshakespeare");
  folder.write("tinyshakespeare/input.txt.part", "Firs");
  EXPECT_EQ(opened(), testing::shipped_samples() / "tinyshakespeare");
  folder.write("tinyshakespeare/input.txt", "First Citizen: we are all of us his, and he is ours");
  EXPECT_EQ(opened(), folder.path() / "tinyshakespeare");
}

TEST(OpenDatasets, FindsAPathHereOrBelowTheRoots) {
  TempFolder folder;
  folder.write("root/novels/train.txt", "my own words");
  folder.write("root/novels/valid.txt", "and these");
  Places places = shipped();
  places.data_root = folder.path() / "root";
  EXPECT_EQ(open_datasets({.name = "text", .path = "novels", .n_positions = 4}, places).path,
            folder.path() / "root/novels");
  EXPECT_EQ(num_tokens(*open_datasets({.name = "text", .path = "tinyshakespeare", .n_positions = 4},
                                      places)
                            .train),
            1'003'854);
  EXPECT_EQ(
      open_datasets(
          {.name = "text", .path = (folder.path() / "root/novels").string(), .n_positions = 4}, {})
          .path,
      folder.path() / "root/novels");
  EXPECT_EQ(data_error([&] {
              open_datasets({.name = "text", .path = "poems", .n_positions = 4}, places);
            }),
            "data.path is \"poems\", but nothing is there; looked for\n    poems\n    " +
                (places.data_root / "poems").string() + "\n    " +
                (places.shipped / "poems").string());
}

TEST(OpenDatasets, SaysWhatItLookedForAndHowToGetIt) {
  TempFolder folder;
  const Places places{
      .data_root = folder.path() / "mine", .shipped = folder.path() / "shipped", .cache = {}};
  EXPECT_EQ(data_error([&] { open_datasets({.name = "cifar10"}, places); }),
            "the data \"cifar10\" is not on this machine; looked for\n    " +
                (folder.path() / "mine/cifar-10-batches-bin").string() + "\n    " +
                (folder.path() / "shipped/cifar-10-batches-bin").string() +
                "\n  Fetch it with: outstep data get cifar10\n  or say where it lies: "
                "--data.path=FOLDER, or "
                "OUTSTEP_DATA=FOLDER with cifar-10-batches-bin in it");
  EXPECT_EQ(message_of<ConfigError>([&] { open_datasets({.name = "tokens"}, places); }),
            "data \"tokens\" needs data.path, the file or folder to read");
  EXPECT_THAT(message_of<ConfigError>([&] { open_datasets({.name = "nothing"}, places); }),
              HasSubstr("data.name is \"nothing\"; it must be one of text, tokens, cifar10"));
}

// ---- Text ----

TEST(OpenText, CutsOneFileInTwo) {
  TempFolder folder;
  const auto file = folder.write("all.txt", std::string(900, 'a') + std::string(100, 'b'));
  const DataOptions options{.name = "text", .path = file.string(), .n_positions = 10};
  const Datasets data = open_datasets(options, {});
  EXPECT_EQ(num_tokens(*data.train), 900);
  EXPECT_EQ(num_tokens(*data.validation), 100);
  const std::vector<Dataset::Example> first = {{0, 0}};
  EXPECT_EQ(data.validation->gather(first, {}).inputs.const_data_ptr<int64_t>()[0], 'b');
  folder.write("folder/input.txt", std::string(100, 'a'));
  EXPECT_EQ(num_tokens(*open_datasets({.name = "text",
                                       .path = (folder.path() / "folder").string(),
                                       .valid_fraction = 0.3,
                                       .n_positions = 10},
                                      {})
                            .train),
            70);
}

TEST(OpenText, SaysThatTheHeldOutShareIsTooShort) {
  TempFolder folder;
  const auto file = folder.write("all.txt", std::string(200, 'a'));
  EXPECT_THAT(data_error([&] {
                open_datasets({.name = "text", .path = file.string(), .n_positions = 64}, {});
              }),
              HasSubstr("all.txt (its last 10 %): 20 tokens are too few for one window"));
}

TEST(OpenText, DoesNotCutACharacterInTwo) {
  TempFolder folder;
  std::string text;
  for (int i = 0; i < 25; ++i) text += "€";  // three bytes each
  const auto file = folder.write("all.txt", text);
  for (const double fraction : {0.30, 0.31, 0.32, 0.33, 0.34}) {
    const Datasets data = open_datasets(
        {.name = "text", .path = file.string(), .valid_fraction = fraction, .n_positions = 4}, {});
    EXPECT_EQ(num_tokens(*data.train) % 3, 0);
    EXPECT_EQ(num_tokens(*data.train) + num_tokens(*data.validation), 75);
  }
}

TEST(OpenText, TakesNamedFiles) {
  TempFolder folder;
  folder.write("a.txt", "aaaaaaaaaa");
  folder.write("b.txt", "bbbbbbbbbbbbbb");
  folder.write("c.txt", "cccccc");
  DataOptions options{.name = "text", .path = folder.path().string(), .n_positions = 4};
  options.train_files = {"a.txt", "b.txt"};
  options.valid_files = {"c.txt"};
  const Datasets data = open_datasets(options, {});
  EXPECT_EQ(num_tokens(*data.train), 24);
  EXPECT_EQ(num_tokens(*data.validation), 6);
  options.valid_files = {"b.txt"};
  EXPECT_EQ(message_of<ConfigError>([&] { open_datasets(options, {}); }),
            "data.train_files and data.valid_files both name \"b.txt\"; validation needs data that "
            "is not trained on");
  options.valid_files = {"./b.txt"};
  EXPECT_THAT(message_of<ConfigError>([&] { open_datasets(options, {}); }),
              HasSubstr("both name \"b.txt\""));
  options.train_files.clear();
  EXPECT_EQ(data_error([&] { open_datasets(options, {}); }),
            folder.path().string() +
                ": no file to train on (train.txt expected); it holds a.txt, b.txt, c.txt.\n  "
                "data.train_files names "
                "others");
  options.path = (folder.path() / "a.txt").string();
  EXPECT_THAT(message_of<ConfigError>([&] { open_datasets(options, {}); }),
              HasSubstr("data.path is the file"));
}

TEST(OpenText, RefusesAFileThatIsNamedTwice) {
  TempFolder folder;
  folder.write("a.txt", "aaaaaaaaaa");
  folder.write("b.txt", "bbbbbbbbbb");
  const auto error = [&](std::vector<std::string> train, std::vector<std::string> valid) {
    return message_of<ConfigError>([&] {
      open_datasets({.name = "text",
                     .path = folder.path().string(),
                     .train_files = std::move(train),
                     .valid_files = std::move(valid),
                     .n_positions = 4},
                    {});
    });
  };
  EXPECT_EQ(error({"a.txt", "b.txt", ".//a.txt"}, {}),
            "data.train_files names the file \".//a.txt\" twice; name each once");
  EXPECT_EQ(error({}, {"b.txt", "b.txt"}),
            "data.valid_files names the file \"b.txt\" twice; name each once");
  EXPECT_THAT(error({"a.txt"}, {(folder.path() / "a.txt").string()}),
              HasSubstr("both name \"a.txt\""));
  folder.write("valid.txt", std::string(100, 'c'));
  const Datasets data = open_datasets({.name = "text",
                                       .path = folder.path().string(),
                                       .train_files = {"./valid.txt"},
                                       .n_positions = 4},
                                      {});
  EXPECT_EQ(num_tokens(*data.validation), 10) << "a share of it, not the same file";
}

TEST(OpenText, SaysThatAPathCannotBeLookedInto) {
  TempFolder folder;
  std::filesystem::create_symlink("loop", folder.path() / "loop");
  std::filesystem::create_symlink("train.txt", folder.path() / "train.txt");
  EXPECT_THAT(data_error([&] {
                open_datasets({.name = "text", .path = folder.path().string(), .n_positions = 4},
                              {});
              }),
              HasSubstr("train.txt: cannot be looked for: Too many levels of symbolic links"));
}

TEST(OpenText, WithGpt2sTokenizer) {
  TempFolder folder;
  Places places = shipped();
  places.cache = folder.path();
  for (int round = 0; round < 2; ++round) {  // the second from the cache
    const Datasets data =
        open_datasets({.name = "text", .n_positions = 64, .tokenizer = "gpt2"}, places);
    EXPECT_EQ(data.vocab_size, 50257);
    EXPECT_EQ(data.train->describe(), "301,966 tokens in windows of 64");
    const std::vector<Dataset::Example> first = {{0, 0}};
    const Batch batch = data.train->gather(first, {});
    const std::vector<int32_t> ids = {5962, 22307, 25};  // "First Citizen:"
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(batch.inputs.const_data_ptr<int64_t>()[i], ids[i]);
    EXPECT_EQ(data.tokenizer->decode(ids), "First Citizen:");
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 2);
}

// ---- Tokens ----

TEST(OpenTokens, ReadsAFolderOrAFile) {
  TempFolder folder;
  const auto row = [](int32_t num) {
    return TokenRow::of_ids(std::vector<int32_t>(static_cast<size_t>(num), 5), "ids");
  };
  write_token_file(folder.path() / "train.bin", row(500), 50257);
  write_token_file(folder.path() / "val.bin", row(50), 50257);
  const Datasets data =
      open_datasets({.name = "tokens", .path = folder.path().string(), .n_positions = 8}, {});
  EXPECT_EQ(num_tokens(*data.train), 500);
  EXPECT_EQ(num_tokens(*data.validation), 50);
  EXPECT_EQ(data.vocab_size, 50257);
  EXPECT_EQ(data.tokenizer, nullptr);
  const Datasets lone = open_datasets(
      {.name = "tokens", .path = (folder.path() / "train.bin").string(), .n_positions = 8}, {});
  EXPECT_EQ(num_tokens(*lone.train), 450);
  EXPECT_EQ(num_tokens(*lone.validation), 50);
}

// ---- Images ----

// data_batch_1.bin to data_batch_5.bin, of one record each with the batch's number as its label,
// and test_batch.bin.
void write_cifar10(const TempFolder& folder) {
  for (char batch = 1; batch <= 5; ++batch) {
    folder.write("data_batch_" + std::to_string(batch) + ".bin",
                 std::string(1, batch) + std::string(3072, '\0'));
  }
  folder.write("test_batch.bin", std::string(3073, '\0'));
}

std::vector<int64_t> labels_of(const Dataset& dataset) {
  const at::Tensor targets =
      Sweep(std::shared_ptr<const Dataset>(&dataset, [](auto*) {}), 100).batch(0).targets;
  return {targets.const_data_ptr<int64_t>(), targets.const_data_ptr<int64_t>() + targets.numel()};
}

TEST(OpenCifar, TakesAllBatchesAndTheTestBatch) {
  TempFolder folder;
  write_cifar10(folder);
  const Datasets data = open_datasets({.name = "cifar10", .path = folder.path().string()}, {});
  EXPECT_THAT(labels_of(*data.train), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(labels_of(*data.validation), ElementsAre(0));
  EXPECT_EQ(data.unit, "images");
  EXPECT_EQ(data.num_classes, 10);
  EXPECT_EQ(data.vocab_size, 0);
  EXPECT_THAT(data.input_shape, ElementsAre(3, 32, 32));
  EXPECT_EQ(data.class_names[6], "frog");
}

TEST(OpenCifar, HoldsABatchOut) {
  TempFolder folder;
  write_cifar10(folder);
  DataOptions options{
      .name = "cifar10", .path = folder.path().string(), .valid_files = {"data_batch_5.bin"}};
  const Datasets data = open_datasets(options, {});
  EXPECT_THAT(labels_of(*data.train), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(labels_of(*data.validation), ElementsAre(5));
  options.train_files = {"data_batch_2.bin"};
  EXPECT_THAT(labels_of(*open_datasets(options, {}).train), ElementsAre(2));
}

TEST(OpenCifar, SaysWhichFileIsMissing) {
  TempFolder folder;
  write_cifar10(folder);
  const DataOptions options{.name = "cifar10", .path = folder.path().string()};
  std::filesystem::remove(folder.path() / "test_batch.bin");
  EXPECT_EQ(data_error([&] { open_datasets(options, {}); }),
            folder.path().string() +
                ": no file to validate on (test_batch.bin is missing); it holds data_batch_1.bin, "
                "data_batch_2.bin, "
                "data_batch_3.bin, data_batch_4.bin, data_batch_5.bin.\n  Fetch the whole set "
                "with: outstep data get "
                "cifar10, or hold a file out: --data.valid_files='[\"data_batch_5.bin\"]'");
  std::filesystem::remove(folder.path() / "data_batch_3.bin");
  EXPECT_EQ(data_error([&] { open_datasets(options, {}); }),
            folder.path().string() +
                ": data_batch_3.bin is missing; it holds data_batch_1.bin, data_batch_2.bin, "
                "data_batch_4.bin, "
                "data_batch_5.bin.\n  Fetch the whole set with: outstep data get cifar10, or name "
                "the files to train on "
                "in data.train_files");
}

TEST(OpenImages, NeedsAFolder) {
  TempFolder folder;
  const auto file = folder.write("data_batch_1.bin", std::string(3073, '\0'));
  EXPECT_EQ(message_of<ConfigError>(
                [&] { open_datasets({.name = "cifar10", .path = file.string()}, {}); }),
            "data \"cifar10\" is read from a folder with its files, but data.path is the file " +
                file.string());
}

TEST(OpenIdx, TakesTheShippedFashionSample) {
  const Datasets data = open_datasets(options_of("name = \"fashion_mnist\""), shipped());
  EXPECT_EQ(data.train->size(), 4000);
  EXPECT_EQ(data.validation->size(), 1000);
  EXPECT_THAT(data.input_shape, ElementsAre(1, 28, 28));
  EXPECT_EQ(data.class_names[static_cast<size_t>(labels_of(*data.train)[0])], "ankle boot");
  const at::Tensor images = Sweep(data.train, 4000).batch(0).inputs;
  EXPECT_NEAR(images.mean().item<double>(), 0, 0.01);
  EXPECT_NEAR(images.std().item<double>(), 1, 0.01);
}

TEST(OpenIdx, SaysWhichFileIsMissing) {
  TempFolder folder;
  EXPECT_EQ(
      data_error([&] { open_datasets({.name = "mnist", .path = folder.path().string()}, {}); }),
      folder.path().string() +
          ": neither train-images-idx3-ubyte.gz nor train-images-idx3-ubyte is there; the folder "
          "is empty.\n"
          "  Fetch the set with: outstep data get mnist");
}

// ---- Tensors ----

TEST(OpenTensors, CutsOneFileOrTakesTwo) {
  TempFolder folder;
  const auto write = [&](const std::string& name, int64_t num, int64_t width) {
    io::write_safetensors(folder.path() / name, {{"inputs", at::ones({num, width})},
                                                 {"labels", at::arange(num, at::kLong)}});
  };
  write("train.safetensors", 20, 3);
  const auto path = folder.path().string();
  const Datasets cut = open_datasets({.name = "tensors", .path = path + "/train.safetensors"}, {});
  EXPECT_EQ(cut.train->size(), 18);
  EXPECT_EQ(cut.validation->size(), 2);
  EXPECT_EQ(cut.num_classes, 20);
  write("valid.safetensors", 30, 3);
  const Datasets two = open_datasets({.name = "tensors", .path = path}, {});
  EXPECT_EQ(two.train->size(), 20);
  EXPECT_EQ(two.validation->size(), 30);
  EXPECT_EQ(two.num_classes, 30);
  EXPECT_EQ(two.unit, "samples");
  write("valid.safetensors", 30, 4);
  EXPECT_EQ(
      data_error([&] { open_datasets({.name = "tensors", .path = path}, {}); }),
      path +
          ": examples to train on are 20 examples of 3, but those to validate on 30 examples of 4");
}

// ---- Tokenizers ----

TEST(OpenTokenizer, ByNameOrPath) {
  EXPECT_EQ(open_tokenizer("bytes", {})->vocab_size(), 256);
  EXPECT_EQ(open_tokenizer("gpt2", shipped())->vocab_size(), 50257);
  EXPECT_EQ(open_tokenizer("gpt2-bpe", shipped())->vocab_size(), 50257);
  EXPECT_THAT(data_error([] { open_tokenizer("gpt2", {}); }),
              HasSubstr("outstep data get gpt2-bpe"));
  EXPECT_EQ(
      data_error([] { open_tokenizer("gtp2", {}); }),
      "the tokenizer (data.tokenizer, --tokenizer) is \"gtp2\", but nothing is there; it must "
      "be \"bytes\", \"gpt2\", or a folder with a vocabulary; looked for\n    gtp2");
}

}  // namespace
}  // namespace outstep::data
