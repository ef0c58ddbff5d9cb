#include "outstep/data/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "outstep/base/rng.h"
#include "outstep/data/bpe_files.h"
#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

using testing::data_error;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempFolder;

const Tokenizer& gpt2() {
  static const auto tokenizer = open_bpe(testing::shipped_samples() / "gpt2-bpe");
  return *tokenizer;
}

TEST(Gpt2Tokenizer, GivesThePublishedIds) {
  EXPECT_EQ(gpt2().vocab_size(), 50257);
  EXPECT_THAT(gpt2().encode("Hello world"), ElementsAre(15496, 995));
  EXPECT_THAT(gpt2().encode("Hello, world!"), ElementsAre(15496, 11, 995, 0));
  EXPECT_THAT(gpt2().encode("The quick brown fox jumps over the lazy dog."),
              ElementsAre(464, 2068, 7586, 21831, 18045, 625, 262, 16931, 3290, 13));
  EXPECT_THAT(gpt2().encode("I'll can't we've 12345 3.14"),
              ElementsAre(40, 1183, 460, 470, 356, 1053, 17031, 2231, 513, 13, 1415));
  EXPECT_THAT(gpt2().encode("naïve café"), ElementsAre(2616, 38776, 40304));
}

// The counts that nanoGPT and the data's own page state.
TEST(Gpt2Tokenizer, CountsTinyShakespeare) {
  const auto folder = testing::shipped_samples() / "tinyshakespeare";
  const std::string train = testing::read_file(folder / "train.txt");
  const std::string rest =
      testing::read_file(folder / "valid.txt") + testing::read_file(folder / "test.txt");
  const auto ids = gpt2().encode(train);
  EXPECT_EQ(ids.size(), 301'966);
  EXPECT_EQ(gpt2().encode(rest).size(), 36'059);
  EXPECT_EQ(gpt2().encode(train + rest).size(), 338'025);
  EXPECT_EQ(gpt2().decode(ids), train);
}

TEST(Gpt2Tokenizer, EndOfTextIsATokenOfItsOwn) {
  EXPECT_EQ(gpt2().end_of_text(), 50256);
  EXPECT_THAT(gpt2().encode("Hello<|endoftext|> world"), ElementsAre(15496, 50256, 995));
  EXPECT_THAT(gpt2().encode("<|endoftext|><|endoftext|>"), ElementsAre(50256, 50256));
  EXPECT_THAT(gpt2().encode("a \n<|endoftext|>"),
              ElementsAre(64, 220, 198, 50256));  // the text ends there
  EXPECT_THAT(gpt2().encode("<|endoftext|"), ::testing::Not(::testing::Contains(50256)));
  EXPECT_EQ(gpt2().decode(std::vector<int32_t>{15496, 50256}), "Hello<|endoftext|>");
}

TEST(Gpt2Tokenizer, GivesAnyBytesBack) {
  CounterRng rng({.seed = 1, .purpose = purpose("test")});
  for (int round = 0; round < 300; ++round) {
    std::string text(rng.below(200), '\0');
    for (char& c : text) c = static_cast<char>(rng.below(round % 2 == 0 ? 256 : 128));
    ASSERT_EQ(gpt2().decode(gpt2().encode(text)), text);
  }
}

// One piece of 300,000 letters, without a space: n log n, not n², and as pieces of it are encoded.
TEST(Gpt2Tokenizer, MergesLongPiecesLikeShortOnes) {
  const auto ids = gpt2().encode(std::string(300'000, 'a'));
  EXPECT_EQ(gpt2().decode(ids), std::string(300'000, 'a'));
  EXPECT_LT(ids.size(), 100'000);
  CounterRng rng({.seed = 2, .purpose = purpose("test")});
  for (int round = 0; round < 200; ++round) {
    std::string word;  // of letters, so that it is one piece; just above and below the border
                       // between the two ways
    while (word.size() < 50 + rng.below(30)) word += static_cast<char>('a' + rng.below(4));
    const auto whole = gpt2().encode(word);
    const auto again = gpt2().encode(word + "!");
    ASSERT_TRUE(std::equal(whole.begin(), whole.end(), again.begin()));
    ASSERT_EQ(gpt2().decode(whole), word);
  }
}

TEST(Gpt2Tokenizer, RefusesIdsItDoesNotHave) {
  EXPECT_THAT(data_error([&] { gpt2().decode(std::vector<int32_t>{1, 50257}); }),
              HasSubstr("token 1 is 50257, but byte-level BPE of 50,257 tokens"));
  EXPECT_NE(data_error([&] { gpt2().decode(std::vector<int32_t>{-1}); }), "");
}

// ---- A small vocabulary: 256 bytes, a few merges ----

// The printable form of a byte, as GPT-2 writes it.
std::string printable(int byte) {
  static const std::vector<std::string> forms = [] {
    std::vector<std::string> result(256);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      const int code = itself ? b : next++;
      result[static_cast<size_t>(b)] = code < 128
                                           ? std::string(1, static_cast<char>(code))
                                           : std::string{static_cast<char>(0xc0 | code >> 6),
                                                         static_cast<char>(0x80 | (code & 0x3f))};
    }
    return result;
  }();
  return forms[static_cast<size_t>(byte)];
}

nlohmann::ordered_json small_vocabulary() {
  nlohmann::ordered_json vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary[printable(byte)] = byte;
  vocabulary["ab"] = 256;
  vocabulary["aba"] = 257;
  vocabulary["ba"] = 258;
  return vocabulary;
}

nlohmann::ordered_json small_tokenizer() {
  return {
      {"added_tokens", {{{"id", 259}, {"content", "<end>"}, {"special", true}, {"lstrip", false}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"vocab", small_vocabulary()},
        {"merges", {"a b", "ab a", "b a"}}}}};
}

TEST(BpeFiles, ReadTheThreeWaysAlike) {
  TempFolder folder;
  folder.write("hf/vocab.json", small_vocabulary().dump());
  folder.write("hf/merges.txt", "#version: 0.2\na b\nab a\nb a\n");
  folder.write("openai/encoder.json", small_vocabulary().dump());
  folder.write("openai/vocab.bpe", "#version: 0.2\r\na b\r\nab a\r\nb a");
  folder.write("fast/tokenizer.json", small_tokenizer().dump());
  auto pairs = small_tokenizer();
  pairs["model"]["merges"] =
      nlohmann::ordered_json::parse(R"([["a", "b"], ["ab", "a"], ["b", "a"]])");
  const auto lone = folder.write("lone.json", pairs.dump());
  for (const auto& path :
       {folder.path() / "hf", folder.path() / "openai", folder.path() / "fast", lone}) {
    const auto tokenizer = open_bpe(path);
    EXPECT_THAT(tokenizer->encode("abaab ba"), ElementsAre(257, 256, ' ', 258)) << path;
    EXPECT_THAT(tokenizer->encode("\xff\n"), ElementsAre(255, 10));
  }
  EXPECT_EQ(open_bpe(folder.path() / "hf")->fingerprint(),
            open_bpe(folder.path() / "openai")->fingerprint());
  EXPECT_NE(open_bpe(folder.path() / "hf")->fingerprint(), open_bpe(lone)->fingerprint());
  EXPECT_EQ(open_bpe(folder.path() / "hf")->end_of_text(), std::nullopt);
  EXPECT_THAT(open_bpe(lone)->encode("ab<end>a<end"),
              ElementsAre(256, 259, 'a', '<', 'e', 'n', 'd'));
}

TEST(BpeFiles, RefuseWhatIsNoVocabulary) {
  TempFolder folder;
  const auto error = [&](const std::string& vocabulary, const std::string& merges) {
    folder.write("vocab.json", vocabulary);
    folder.write("merges.txt", merges);
    const std::string text = data_error([&] { open_bpe(folder.path()); });
    return text.substr(std::min(text.size(), folder.path().string().size()));
  };
  EXPECT_THAT(error("{\"a\": ", ""), HasSubstr("/vocab.json: not JSON: "));
  EXPECT_EQ(error("[]", ""), "/vocab.json: the vocabulary is not an object of tokens and ids");
  EXPECT_EQ(error(R"({"a": "b"})", ""),
            "/vocab.json: the token \"a\" has no whole number as its id");
  EXPECT_EQ(error(R"({"a": 1})", ""),
            "/vocab.json: the token \"a\" has id 1, but ids of 1 tokens run from 0 to 0");
  EXPECT_EQ(error(R"({"a": -1})", ""),
            "/vocab.json: the token \"a\" has id -1, but ids of 1 tokens run from 0 to 0");
  EXPECT_EQ(error(R"({"a": 0, "b": 0})", ""),
            "/vocab.json: the tokens \"a\" and \"b\" have the same id 0");
  EXPECT_EQ(
      error(R"({"a": 0})", ""),
      "/vocab.json: byte 0x00 has no token; a byte-level vocabulary has one for each of the 256");
  const std::string good = small_vocabulary().dump();
  EXPECT_EQ(error(good, "a b\na c d\n"),
            "/merges.txt:2: two tokens with a space between them are expected, found \"a c d\"");
  EXPECT_EQ(error(good, "a b\nab"),
            "/merges.txt:2: two tokens with a space between them are expected, found \"ab\"");
  EXPECT_EQ(error(good, "a c\n"),
            "/merges.txt:1: the merge of \"a\" and \"c\" needs the token \"ac\", which is not in "
            "the vocabulary");
  EXPECT_EQ(error(good, "a b\na b\n"), "/vocab.json: merge 1 repeats an earlier one");
}

TEST(BpeFiles, RefuseOtherKindsOfTokenizer) {
  TempFolder folder;
  const auto error = [&](auto change) {
    auto json = small_tokenizer();
    change(json);
    const auto path = folder.write("tokenizer.json", json.dump());
    const std::string text = data_error([&] { open_bpe(path); });
    return text.substr(std::min(text.size(), path.string().size()));
  };
  using Json = nlohmann::ordered_json;
  EXPECT_EQ(error([](Json&) {}), "");
  EXPECT_EQ(error([](Json& json) { json["model"]["type"] = "WordPiece"; }),
            ": its model is not BPE; only GPT-2's byte-level BPE is read");
  EXPECT_THAT(error([](Json& json) { json["normalizer"] = {{"type", "NFC"}}; }),
              HasSubstr("it has a normalizer"));
  EXPECT_THAT(error([](Json& json) { json["pre_tokenizer"]["type"] = "Metaspace"; }),
              HasSubstr("is not ByteLevel"));
  EXPECT_THAT(error([](Json& json) { json["pre_tokenizer"]["add_prefix_space"] = true; }),
              HasSubstr("puts a space before the text"));
  EXPECT_THAT(error([](Json& json) { json["model"]["unk_token"] = "<unk>"; }),
              HasSubstr("its model sets unk_token"));
  EXPECT_THAT(error([](Json& json) { json["model"]["merges"] = 3; }),
              HasSubstr("model.merges is not a list"));
  EXPECT_THAT(error([](Json& json) { json["model"]["merges"][1] = 3; }),
              HasSubstr("model.merges[1]: two tokens are expected, found a JSON number"));
  EXPECT_THAT(
      error([](Json& json) { json["added_tokens"][0]["id"] = 300; }),
      HasSubstr("the special token \"<end>\" has id 300, which does not fit a vocabulary of 259"));
  EXPECT_THAT(error([](Json& json) { json["added_tokens"][0]["lstrip"] = true; }),
              HasSubstr("an added token sets lstrip"));
  EXPECT_THAT(error([](Json& json) { json.erase("model"); }),
              HasSubstr("there is no \"model\" in it"));
  EXPECT_THAT(error([](Json& json) { json["pre_tokenizer"]["add_prefix_space"] = "no"; }),
              HasSubstr("not a tokenizer.json"));
}

TEST(BpeFiles, RefuseWhatNestsDeeplyOrGoesOnAndOn) {
  TempFolder folder;
  const auto error = [&](const std::string& bytes) {
    const auto path = folder.write("tokenizer.json", bytes);
    return data_error([&] { open_bpe(path); }).substr(path.string().size());
  };
  const std::string deep = std::string(50'000, '[') + std::string(50'000, ']');
  for (const std::string before :
       {"", R"({"model": {"merges": )", R"({"pre_tokenizer": )", R"({"normalizer": {"a": )"}) {
    EXPECT_EQ(error(before + deep + (before.empty() ? "" : "}}")),
              ": its JSON nests more than 32 levels deep");
  }
  const std::string endless(100'000, 'x');
  EXPECT_LT(error("{\"" + endless).size(), 300u);
  EXPECT_LT(error(R"({"model": {"vocab": {")" + endless + R"(": "a"}}})").size(), 300u);
  auto json = small_tokenizer();
  json["pre_tokenizer"]["add_prefix_space"] = false;
  json["model"]["merges"] = {endless};
  EXPECT_LT(error(json.dump()).size(), 300u);
  json["model"]["merges"] = {endless + " b"};
  EXPECT_LT(error(json.dump()).size(), 500u);
}

TEST(BpeFiles, SayWhatIsLookedFor) {
  TempFolder folder;
  EXPECT_EQ(
      data_error([&] { open_bpe(folder.path()); }),
      folder.path().string() +
          ": no tokenizer in it; tokenizer.json, or vocab.json and merges.txt, or encoder.json "
          "and vocab.bpe are looked for");
}

}  // namespace
}  // namespace outstep::data
