#include "outstep/data/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "outstep/base/errors.h"
#include "outstep/data/testing.h"
#include "outstep/data/token_file.h"

namespace outstep::data {
namespace {

using testing::data_error;
using ::testing::HasSubstr;
using testing::TempFolder;

std::vector<int32_t> counting(int32_t num) {
  std::vector<int32_t> ids(static_cast<size_t>(num));
  for (int32_t i = 0; i < num; ++i) ids[static_cast<size_t>(i)] = i;
  return ids;
}

TokenWindows windows_of(int32_t num_tokens, int64_t n_positions) {
  return TokenWindows({TokenRow::of_ids(counting(num_tokens), "ids")},
                      {.n_positions = n_positions, .vocab_size = 1000});
}

int64_t first_input(const Dataset& dataset, int64_t epoch, int64_t index,
                    const Dataset::Draw& draw) {
  const std::vector<Dataset::Example> one = {{epoch, index}};
  return dataset.gather(one, draw).inputs.const_data_ptr<int64_t>()[0];
}

TEST(TokenWindows, TargetsAreTheInputsOneTokenOn) {
  TempFolder folder;
  const TokenWindows text({TokenRow::of_text(folder.write("text", "To be, or not to be"))},
                          {.n_positions = 4});
  EXPECT_EQ(text.size(), 4);  // 18 tokens have a successor
  const std::vector<Dataset::Example> examples = {{0, 1}, {0, 3}};
  const Batch batch = text.gather(examples, {});
  EXPECT_TRUE(at::equal(
      batch.inputs, at::tensor({'e', ',', ' ', 'o', 't', ' ', 't', 'o'}, at::kLong).view({2, 4})));
  EXPECT_TRUE(at::equal(
      batch.targets, at::tensor({',', ' ', 'o', 'r', ' ', 't', 'o', ' '}, at::kLong).view({2, 4})));
  EXPECT_EQ(batch.num_samples, 2);
  EXPECT_EQ(batch.num_units, 8);
  EXPECT_EQ(text.describe(), "19 tokens in windows of 4");
}

TEST(TokenWindows, EvaluationAlwaysTakesTheSameWindows) {
  const TokenWindows text = windows_of(101, 10);
  EXPECT_EQ(text.size(), 10);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    for (int64_t i = 0; i < 10; ++i) EXPECT_EQ(first_input(text, epoch, i, {.seed = 1}), 10 * i);
  }
}

TEST(TokenWindows, TrainingMovesAllWindowsOfAnEpochByOneOffset) {
  const TokenWindows text = windows_of(105, 10);  // the last window may move by 4
  std::set<int64_t> offsets;
  for (int64_t epoch = 0; epoch < 200; ++epoch) {
    const int64_t offset = first_input(text, epoch, 0, {.seed = 9, .augment = true});
    offsets.insert(offset);
    for (int64_t i = 0; i < 9; ++i) {
      EXPECT_EQ(first_input(text, epoch, i, {.seed = 9, .augment = true}), 10 * i + offset);
    }
    EXPECT_EQ(first_input(text, epoch, 9, {.seed = 9, .augment = true}),
              90 + std::min<int64_t>(offset, 4));
  }
  EXPECT_EQ(offsets.size(), 10);
  EXPECT_EQ(*offsets.rbegin(), 9);
}

TEST(TokenWindows, NoWindowCrossesFromATextToTheNext) {
  const TokenWindows texts(
      {TokenRow::of_ids(counting(25), "a"), TokenRow::of_ids({900, 901, 902, 903, 904, 905}, "b")},
      {.n_positions = 5, .vocab_size = 1000});
  ASSERT_EQ(texts.size(), 5);
  EXPECT_EQ(texts.num_tokens(), 31);
  EXPECT_EQ(first_input(texts, 0, 3, {}), 15);
  EXPECT_EQ(first_input(texts, 0, 4, {}), 900);
  for (int64_t epoch = 0; epoch < 20; ++epoch) {
    EXPECT_EQ(first_input(texts, epoch, 4, {.seed = 1, .augment = true}),
              900);  // it has no room to move
  }
}

TEST(TokenWindows, RefusesEmptyAndShortTexts) {
  TempFolder folder;
  const auto error = [](const std::filesystem::path& path) {
    return data_error([&] { TokenWindows({TokenRow::of_text(path)}, {.n_positions = 128}); });
  };
  const auto empty = folder.write("empty.txt", "");
  EXPECT_EQ(error(empty), empty.string() + ": there is no text in it (0 bytes)");
  const auto shorter = folder.write("short.txt", std::string(128, 'a'));
  EXPECT_EQ(
      error(shorter),
      shorter.string() +
          ": 128 tokens are too few for one window: model.n_positions 128 needs at least 129.\n"
          "  Take a longer text, or a smaller model.n_positions.");
  EXPECT_EQ(error(folder.write("enough.txt", std::string(129, 'a'))), "");
  EXPECT_EQ(testing::message_of<ConfigError>([&] { windows_of(10, 0); }),
            "model.n_positions is 0; windows of text need at least 1 token");
}

TEST(TokenWindows, RefusesIdsOutsideTheVocabularyWhenTheyAreRead) {
  const TokenWindows text({TokenRow::of_ids({1, 2, 3, 4, 5, 1000, 7}, "some ids")},
                          {.n_positions = 3, .vocab_size = 1000});
  EXPECT_EQ(first_input(text, 0, 0, {}), 1);
  EXPECT_EQ(data_error([&] { first_input(text, 0, 1, {}); }),
            "some ids: token 5 is 1,000, but the vocabulary has 1,000 ids, 0 to 999.\n"
            "  The file was made with another tokenizer, or is no token file; data.vocab_size says "
            "how many ids there "
            "are.");
}

TEST(ByteTokenizer, GivesBytesBack) {
  const ByteTokenizer bytes;
  const std::string text("\0\xff naïve", 8);
  EXPECT_EQ(bytes.encode(text)[1], 255);
  EXPECT_EQ(bytes.decode(bytes.encode(text)), text);
  EXPECT_EQ(bytes.vocab_size(), 256);
  EXPECT_EQ(data_error([&] { bytes.decode(std::vector<int32_t>{65, 256}); }),
            "token 1 is 256, but bytes have ids 0 to 255");
}

// Counts how often it is asked.
class Doubling : public ByteTokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text) const override {
    ++num_calls;
    auto ids = ByteTokenizer::encode(text);
    for (int32_t& id : ids) id *= 2;
    return ids;
  }
  int64_t vocab_size() const override { return 512; }
  uint64_t fingerprint() const override { return print; }
  mutable int num_calls = 0;
  uint64_t print = 77;
};

std::vector<int64_t> ids_of(const TokenRow& row) {
  std::vector<int64_t> ids(static_cast<size_t>(row.size()));
  row.read(0, ids);
  return ids;
}

TEST(Tokenize, KeepsTheTokensOfATextAndATokenizer) {
  TempFolder folder;
  const auto cache = folder.path() / "cache";
  Doubling tokenizer;
  const std::vector<int64_t> wanted = {194, 196, 198};
  EXPECT_EQ(ids_of(tokenize("abc", "x", tokenizer, cache)), wanted);
  EXPECT_EQ(ids_of(tokenize("abc", "x", tokenizer, cache)), wanted);
  EXPECT_EQ(tokenizer.num_calls, 1);
  EXPECT_EQ(tokenize("abc", "the name", tokenizer, cache).name(), "the name");
  tokenize("abd", "x", tokenizer, cache);  // another text
  EXPECT_EQ(tokenizer.num_calls, 2);
  tokenizer.print = 78;  // another tokenizer
  tokenize("abc", "x", tokenizer, cache);
  EXPECT_EQ(tokenizer.num_calls, 3);
}

TEST(Tokenize, MakesDamagedTokensAnewAndDoesWithoutACache) {
  TempFolder folder;
  const auto cache = folder.path() / "cache";
  Doubling tokenizer;
  tokenize("abc", "x", tokenizer, cache);
  const auto kept = std::filesystem::directory_iterator(cache)->path();
  EXPECT_EQ(inspect_token_file(kept).num_tokens, 3);
  std::filesystem::resize_file(kept, 100);
  EXPECT_EQ(ids_of(tokenize("abc", "x", tokenizer, cache)).size(), 3);
  EXPECT_EQ(tokenizer.num_calls, 2);
  EXPECT_EQ(inspect_token_file(kept).num_tokens, 3);
  EXPECT_EQ(ids_of(tokenize("abc", "x", tokenizer, "")).size(), 3);
  const auto file = folder.write("file", "");  // no folder can be made there
  EXPECT_EQ(ids_of(tokenize("abc", "x", tokenizer, file / "cache")).size(), 3);
  std::filesystem::create_symlink("loop", folder.path() / "loop");  // nor be looked into there
  EXPECT_EQ(ids_of(tokenize("abc", "x", tokenizer, folder.path() / "loop")).size(), 3);
}

}  // namespace
}  // namespace outstep::data
