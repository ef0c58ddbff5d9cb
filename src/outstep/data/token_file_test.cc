#include "outstep/data/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

using testing::data_error;
using ::testing::HasSubstr;
using testing::TempFolder;

template <typename Number>
std::string little_endian(const std::vector<Number>& numbers) {
  std::string bytes(numbers.size() * sizeof(Number), '\0');
  std::memcpy(bytes.data(), numbers.data(), bytes.size());
  return bytes;
}

std::string header(int32_t magic, int32_t version, int32_t count) {
  std::vector<int32_t> ints(256);
  ints[0] = magic;
  ints[1] = version;
  ints[2] = count;
  return little_endian(ints);
}

std::vector<int64_t> ids_of(const TokenRow& row) {
  std::vector<int64_t> ids(static_cast<size_t>(row.size()));
  row.read(0, ids);
  return ids;
}

TEST(TokenFile, ReadsNanoGptsAndLlmcs) {
  TempFolder folder;
  const auto plain = folder.write("plain.bin", little_endian<uint16_t>({50256, 0, 65535}));
  EXPECT_EQ(ids_of(open_token_file(plain)), (std::vector<int64_t>{50256, 0, 65535}));
  EXPECT_EQ(inspect_token_file(plain).format, TokenFormat::plain_uint16);

  const auto gpt2 =
      folder.write("gpt2.bin", header(20240520, 1, 2) + little_endian<uint16_t>({7, 50256}));
  EXPECT_EQ(ids_of(open_token_file(gpt2)), (std::vector<int64_t>{7, 50256}));
  EXPECT_EQ(inspect_token_file(gpt2).format, TokenFormat::llmc_uint16);

  const auto llama =
      folder.write("llama.bin", header(20240801, 7, 2) + little_endian<uint32_t>({128'000, 9}));
  EXPECT_EQ(ids_of(open_token_file(llama)), (std::vector<int64_t>{128'000, 9}));
  EXPECT_EQ(inspect_token_file(llama).width, 4);
  EXPECT_STREQ(token_format_name(TokenFormat::llmc_uint32), "llm.c tokens, 4 bytes each (Llama 3)");
}

TEST(TokenFile, WritesWhatItReads) {
  TempFolder folder;
  std::vector<int32_t> ids(200'000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i % 60'000);
  const TokenRow row = TokenRow::of_ids(ids, "ids");
  for (const int64_t vocab_size : {60'000, 100'000}) {
    const auto path = folder.path() / "written.bin";
    write_token_file(path, row, vocab_size);
    EXPECT_EQ(inspect_token_file(path).width, vocab_size > 65'536 ? 4 : 2);
    EXPECT_EQ(ids_of(open_token_file(path)), ids_of(row));
  }
}

TEST(TokenFile, SlicesShareTheBytes) {
  const TokenRow row = TokenRow::of_ids({5, 6, 7, 8}, "ids");
  EXPECT_EQ(ids_of(row.slice(1, 3, "part")), (std::vector<int64_t>{6, 7}));
  EXPECT_EQ(row.slice(1, 3, "part").bytes().data(), row.bytes().data() + 4);
}

TEST(TokenFile, RefusesWhatIsNoTokenFile) {
  TempFolder folder;
  const auto error = [&](const std::string& bytes) {
    const auto path = folder.write("t.bin", bytes);
    return data_error([&] { inspect_token_file(path); }).substr(path.string().size());
  };
  EXPECT_EQ(error(""), ": the token file is empty");
  EXPECT_EQ(error("abc"),
            ": 3 bytes is not a whole number of 2-byte tokens (one byte short), and there is no "
            "llm.c header.\n"
            "  The file was cut off, or is no token file (nanoGPT's .bin or llm.c's).");
  EXPECT_EQ(error(header(20240520, 1, 0).substr(0, 100)),
            ": 100 bytes are fewer than the 1,024 of an llm.c header; the file was cut off");
  EXPECT_EQ(error(header(20240520, 3, 0)),
            ": llm.c token file (magic 20240520) of version 3; version 1 is expected");
  EXPECT_EQ(error(header(20240520, 1, 3) + "abcde"),
            ": the header says 3 tokens of 2 bytes, which makes 6 bytes after it, but 5 are there");
  EXPECT_EQ(error(header(20240801, 7, 2) + "abcdef"),
            ": the header says 2 tokens of 4 bytes, which makes 8 bytes after it, but 6 are there");
  EXPECT_THAT(error(header(20240520, 1, -1)), HasSubstr("the header says -1 tokens"));
  EXPECT_EQ(error(header(20240326, 3, 0)), ": this is an llm.c model file, not a token file");
  EXPECT_EQ(error(header(20240328, 2, 0)), ": this is an llm.c tokenizer file, not a token file");
  EXPECT_EQ(error(header(20240522, 1, 0)),
            ": this is an llm.c evaluation file (HellaSwag, MMLU), not a token file");
}

}  // namespace
}  // namespace outstep::data
