#include "outstep/io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "outstep/base/errors.h"

namespace outstep::io {
namespace {

using testing::HasSubstr;

class SafetensorsFile : public testing::Test {
 protected:
  SafetensorsFile() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(testing::TempDir()) /
              fmt::format("outstep_st_{}_{}", info->name(), getpid());
    std::filesystem::create_directories(folder_);
    path_ = folder_ / "model.safetensors";
  }
  ~SafetensorsFile() override { std::filesystem::remove_all(folder_); }

  // A file of this header and this many bytes of data.
  void write(const std::string& header, size_t data_bytes) {
    std::ofstream out(path_, std::ios::binary);
    const uint64_t length = header.size();
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << header << std::string(data_bytes, '\1');
  }

  std::string complaint() {
    try {
      Safetensors file(path_);
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr(path_.string())) << "the file must be named";
      return error.what();
    }
    return "accepted";
  }

  std::string complaint_about(const std::string& header, size_t data_bytes = 8) {
    write(header, data_bytes);
    return complaint();
  }

  std::filesystem::path folder_;
  std::filesystem::path path_;
};

TEST_F(SafetensorsFile, GivesBackWhatWasWritten) {
  std::vector<std::pair<std::string, at::Tensor>> tensors = {
      {"z.weight", at::arange(6, at::kFloat).view({2, 3})},
      {"a", at::ones({3}, at::kBFloat16)},
      {"scalar", at::scalar_tensor(7, at::kLong)},
      {"empty", at::empty({0, 4})},
      {"flags", at::ones({3}, at::kBool)},
      {"odd", at::arange(4, at::kDouble)},  // after three bytes of flags: not aligned in the file
      {"strided", at::arange(6, at::kInt).view({2, 3}).t()},
  };
  write_safetensors(path_, tensors, {{"format", "pt"}});
  Safetensors file(path_);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor read = file.tensor(name);
    EXPECT_EQ(read.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(read.sizes(), tensor.sizes()) << name;
    EXPECT_TRUE(at::equal(read, tensor)) << name;
  }
  EXPECT_THROW(file.tensor("nothing"), DataError);
}

TEST_F(SafetensorsFile, ATensorKeepsTheMappingAlive) {
  write_safetensors(path_, {{"a", at::arange(1000)}});
  const at::Tensor tensor = Safetensors(path_).tensor("a");
  std::filesystem::remove(path_);
  EXPECT_TRUE(at::equal(tensor, at::arange(1000)));
}

TEST_F(SafetensorsFile, EqualInputGivesEqualBytes) {
  const std::vector<std::pair<std::string, at::Tensor>> tensors = {{"b", at::ones({2})},
                                                                   {"a", at::zeros({3})}};
  write_safetensors(path_, tensors, {{"y", "1"}, {"x", "2"}});
  const std::string first = read_text(path_);
  write_safetensors(path_, tensors, {{"x", "2"}, {"y", "1"}});
  EXPECT_EQ(first, read_text(path_));
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, first.data(), 8);
  EXPECT_EQ(header_bytes % 8, 0u) << "the data must begin aligned";
}

// Made one after the other, they are the file that they are together.
TEST_F(SafetensorsFile, TensorsMadeOneByOneGiveTheSameBytes) {
  const std::vector<std::pair<std::string, at::Tensor>> tensors = {
      {"b", at::arange(6, at::kFloat).view({2, 3})}, {"a", at::ones({3}, at::kBFloat16)}};
  write_safetensors(path_, tensors, {{"format", "pt"}});
  const std::string together = read_text(path_);
  std::vector<std::string> asked;
  const auto make = [&](const std::string& name) {
    asked.push_back(name);
    return tensors[name == "b" ? 0 : 1].second;
  };
  write_safetensors(path_, {{"b", at::kFloat, {2, 3}}, {"a", at::kBFloat16, {3}}}, make,
                    {{"format", "pt"}});
  EXPECT_EQ(read_text(path_), together);
  EXPECT_EQ(asked, (std::vector<std::string>{"b", "a"}));
}

TEST_F(SafetensorsFile, RefusesFilesThatAreCutOff) {
  std::ofstream(path_) << "abc";
  EXPECT_THAT(complaint(), HasSubstr("3 bytes are too few"));
  write_safetensors(path_, {{"a", at::arange(1000)}});
  std::filesystem::resize_file(path_, 4000);
  EXPECT_THAT(complaint(), HasSubstr("not within the"));
  std::filesystem::resize_file(path_, 20);
  EXPECT_THAT(complaint(), HasSubstr("promise a header of"));
}

TEST_F(SafetensorsFile, RefusesALyingHeaderLength) {
  std::ofstream out(path_, std::ios::binary);
  const uint64_t length = ~uint64_t{0} - 3;
  out.write(reinterpret_cast<const char*>(&length), 8);
  out << "{}";
  out.close();
  EXPECT_THAT(complaint(), HasSubstr("promise a header of 18446744073709551612 bytes"));
}

TEST_F(SafetensorsFile, RefusesAHeaderBeyondTheFormatsLimit) {
  const uint64_t length = 100'000'001;
  {
    std::ofstream out(path_, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), 8);
  }
  std::filesystem::resize_file(path_, 8 + length);  // sparse: takes no room
  EXPECT_THAT(complaint(), HasSubstr("promise a header of 100000001 bytes"));
}

TEST_F(SafetensorsFile, RefusesBadJson) {
  EXPECT_THAT(complaint_about("{"), HasSubstr("the header is not valid JSON (byte 2): "));
  EXPECT_THAT(complaint_about(""), HasSubstr("the header is not a JSON object"));
  EXPECT_THAT(complaint_about("[]"), HasSubstr("the header is not a JSON object"));
  EXPECT_THAT(complaint_about("\xEF\xBB\xBF{}", 0), HasSubstr("the header is not a JSON object"));
  EXPECT_THAT(complaint_about("{\"a\xFF\": 1}"),
              HasSubstr("not valid JSON (byte 4): syntax error while parsing object key - invalid "
                        "string: ill-formed UTF-8 byte"));
  EXPECT_THAT(complaint_about("{\"\xED\xA0\x80\": 1}"), HasSubstr("ill-formed UTF-8"))
      << "half of a surrogate pair";
  EXPECT_THAT(complaint_about("{} {}", 0), HasSubstr("not valid JSON (byte 4)"));
  EXPECT_THAT(complaint_about(std::string("{}\0{", 4), 0),
              HasSubstr("not valid JSON (byte 3): a zero byte"));
  EXPECT_EQ(complaint_about("{}   ", 0), "accepted") << "padding and no tensors";
}

TEST_F(SafetensorsFile, RefusesWhatNestsDeeply) {
  const std::string deep(1'000'000, '[');
  EXPECT_THAT(complaint_about(deep), HasSubstr("the header is not a JSON object"));
  EXPECT_THAT(complaint_about(R"({"a":)" + deep), HasSubstr("an entry must hold dtype, shape"));
  EXPECT_THAT(complaint_about(R"({"a":{"shape":)" + deep),
              HasSubstr("tensor \"a\": shape: a list is not a size"));
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":)" + deep), HasSubstr("unknown dtype a list"));
  EXPECT_THAT(complaint_about(R"({"__metadata__":)" + deep),
              HasSubstr("__metadata__ is not an object"));
  EXPECT_THAT(complaint_about(R"({"__metadata__":{"a":{)"),
              HasSubstr("__metadata__ \"a\" is not text"));
}

TEST_F(SafetensorsFile, RefusesNamesThatStandTwice) {
  const std::string entry = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  EXPECT_THAT(complaint_about(fmt::format(R"({{"a":{},"a":{}}})", entry, entry)),
              HasSubstr("the name \"a\" stands twice in the header"));
  EXPECT_THAT(complaint_about(fmt::format(R"({{"a":{},"\u0061":{}}})", entry, entry)),
              HasSubstr("the name \"a\" stands twice"))
      << "however it is written";
  EXPECT_THAT(
      complaint_about(R"({"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})"),
      HasSubstr("\"shape\" stands twice"));
  EXPECT_THAT(complaint_about(R"({"__metadata__":{},"__metadata__":{}})", 0),
              HasSubstr("\"__metadata__\" stands twice"));
  EXPECT_THAT(complaint_about(R"({"__metadata__":{"x":"1","x":"2"}})", 0),
              HasSubstr("\"x\" stands twice"));
}

TEST_F(SafetensorsFile, RefusesEntriesThatAreNotTensors) {
  const char* rule = "tensor \"a\": an entry must hold dtype, shape and data_offsets, nothing else";
  EXPECT_THAT(complaint_about(R"({"a":1})"), HasSubstr(rule));
  EXPECT_THAT(complaint_about(R"({"a":null})"), HasSubstr(rule));
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":"F32","shape":[2]}})"), HasSubstr(rule));
  EXPECT_THAT(
      complaint_about(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"strides":[1]}})"),
      HasSubstr(rule));
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})"),
              HasSubstr("tensor \"a\": unknown dtype \"F33\""));
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})"),
              HasSubstr("tensor \"a\": unknown dtype 7"));
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})"),
              HasSubstr("tensor \"a\": shape must be a list, not 2"));
  EXPECT_THAT(complaint_about(R"({"__metadata__":{"a":1}})", 0),
              HasSubstr("__metadata__ \"a\" is not text"));
}

TEST_F(SafetensorsFile, RefusesNumbersThatAreNoSizes) {
  const auto with = [&](const std::string& shape, const std::string& offsets) {
    return complaint_about(fmt::format(
        R"({{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[{}]}}}})", shape, offsets));
  };
  EXPECT_THAT(with("-2", "0,8"), HasSubstr("tensor \"a\": shape: -2 is not a size"));
  EXPECT_THAT(with("2.0", "0,8"), HasSubstr("shape: 2.0 is not a size"));
  EXPECT_THAT(with("true", "0,8"), HasSubstr("shape: true is not a size"));
  EXPECT_THAT(with("\"2\"", "0,8"), HasSubstr("shape: \"2\" is not a size"));
  EXPECT_THAT(with("18446744073709551615", "0,8"), HasSubstr("is not a size"));
  EXPECT_THAT(with("99999999999999999999", "0,8"), HasSubstr("is not a size"));
  EXPECT_THAT(with("1e999", "0,8"), HasSubstr("not valid JSON"));
  EXPECT_THAT(with("2", "-8,0"), HasSubstr("data_offsets: -8 is not a size"));
  EXPECT_THAT(with("2", "0"), HasSubstr("data_offsets must be two numbers"));
  EXPECT_THAT(with("2", "0,8,8"), HasSubstr("data_offsets must be two numbers"));
  std::string ones = "1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  EXPECT_THAT(with(ones, "0,4"), HasSubstr("it has more than 64 dims"));
}

TEST_F(SafetensorsFile, RefusesBytesThatDoNotFit) {
  const auto with = [&](const std::string& shape, const std::string& offsets) {
    return complaint_about(fmt::format(
        R"({{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[{}]}}}})", shape, offsets));
  };
  EXPECT_EQ(with("2", "0,8"), "accepted");
  EXPECT_THAT(with("2", "0,9"), HasSubstr("its bytes [0, 9) are not within the 8 bytes of data"));
  EXPECT_THAT(with("2", "8,0"), HasSubstr("its bytes [8, 0) are not within"));
  EXPECT_THAT(with("2", "9223372036854775800,9223372036854775807"), HasSubstr("not within"));
  EXPECT_THAT(with("3", "0,8"), HasSubstr("its shape needs 12 bytes, its data_offsets hold 8"));
  EXPECT_THAT(with("", "0,8"), HasSubstr("its shape needs 4 bytes, its data_offsets hold 8"));
  EXPECT_THAT(with("4611686018427387904,4611686018427387904", "0,8"),
              HasSubstr("its shape overflows"));
  EXPECT_THAT(with("2305843009213693952", "0,8"), HasSubstr("its shape overflows"))
      << "2^61 elements of 4 bytes";
  EXPECT_THAT(with("0,4611686018427387904,4611686018427387904", "0,0"),
              HasSubstr("its shape overflows"))
      << "a dim of zero hides nothing";
}

TEST_F(SafetensorsFile, ShowsHostileNamesHarmlessly) {
  const std::string error =
      complaint_about(R"({"\u001b[31m)" + std::string(100'000, 'x') + R"(":1})");
  EXPECT_THAT(error, HasSubstr("\"\\u001b[31mxxx"));
  EXPECT_LT(error.size(), 400 + path_.string().size());
  EXPECT_LT(complaint_about("{\"" + std::string(100'000, 'x')).size(), 400 + path_.string().size());
}

TEST_F(SafetensorsFile, RefusesOverlapsHolesAndLeftovers) {
  const auto two = [](int begin, int end) {
    return fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},)"
                       R"("b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
                       end - begin, begin, end);
  };
  EXPECT_EQ(complaint_about(two(4, 8)), "accepted");
  EXPECT_THAT(
      complaint_about(two(3, 8)),
      HasSubstr("tensor \"b\" begins at byte 3 of the data where 4 was expected (it overlaps"));
  EXPECT_THAT(complaint_about(two(0, 4)), HasSubstr("it overlaps another")) << "the same bytes";
  EXPECT_THAT(complaint_about(two(5, 8)), HasSubstr("there is a hole"));
  EXPECT_THAT(complaint_about(two(4, 7)),
              HasSubstr("the last 1 of its 8 bytes of data belong to no tensor"));
  EXPECT_THAT(complaint_about("{}"), HasSubstr("the last 8 of its 8 bytes"));
  EXPECT_EQ(complaint_about(two(4, 4), 4), "accepted") << "an empty tensor at the end";
  EXPECT_THAT(complaint_about(two(2, 2), 4), HasSubstr("where 4 was expected"))
      << "an empty tensor inside another";
}

TEST_F(SafetensorsFile, RefusesABoolThatIsNeither) {
  write(R"({"a":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}})", 4);
  EXPECT_TRUE(Safetensors(path_).tensor("a").all().item<bool>());
  std::fstream(path_, std::ios::in | std::ios::out | std::ios::binary).seekp(-2, std::ios::end)
      << '\2';
  try {
    Safetensors(path_).tensor("a");
    FAIL() << "a bool of 2 was handed out";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("tensor \"a\": byte 2 of it is 2, a BOOL is 0 or 1"));
  }
}

TEST_F(SafetensorsFile, TensorsOfEveryTypeComeBack) {
  const std::vector<std::pair<at::ScalarType, const char*>> types = {
      {at::kDouble, "F64"},
      {at::kFloat, "F32"},
      {at::kHalf, "F16"},
      {at::kBFloat16, "BF16"},
      {at::kLong, "I64"},
      {at::kInt, "I32"},
      {at::kShort, "I16"},
      {at::kChar, "I8"},
      {at::kUInt64, "U64"},
      {at::kUInt32, "U32"},
      {at::kUInt16, "U16"},
      {at::kByte, "U8"},
      {at::kFloat8_e4m3fn, "F8_E4M3"},
      {at::kFloat8_e5m2, "F8_E5M2"},
      {at::kFloat8_e8m0fnu, "F8_E8M0"},
  };
  const at::Tensor bytes = at::arange(48, at::kByte).view({3, 16});
  std::vector<std::pair<std::string, at::Tensor>> tensors = {{"one", at::ones({1}, at::kBool)}};
  for (const auto& [type, name] : types) tensors.emplace_back(name, bytes.view(type));
  write_safetensors(path_, tensors);
  const Safetensors file(path_);
  for (const auto& [type, name] : types) {
    const at::Tensor read = file.tensor(name);  // one byte after what would be aligned
    EXPECT_EQ(read.scalar_type(), type) << name;
    EXPECT_TRUE(at::equal(read.view(at::kByte), bytes)) << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(read.const_data_ptr()) % read.element_size(), 0u) << name;
  }
}

TEST_F(SafetensorsFile, TheWriterRefusesWhatIsOurOwnMistake) {
  const at::Tensor one = at::ones({1});
  EXPECT_THROW(write_safetensors(path_, {{"a", one}, {"a", one}}), InternalError);
  EXPECT_THROW(write_safetensors(path_, {{"__metadata__", one}}), InternalError);
  EXPECT_THROW(write_safetensors(path_, {{"a", one.to(at::kComplexFloat)}}), InternalError);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(SafetensorsFile, MetadataThatIsNotUtf8IsReplacedNotFatal) {
  write_safetensors(path_, {}, {{"path", "caf\xE9"}});
  EXPECT_EQ(Safetensors(path_).metadata().at("path"), "caf\xEF\xBF\xBD");
}

TEST_F(SafetensorsFile, NamesAFileThatCannotBeReadOrWritten) {
  EXPECT_THAT(complaint(), HasSubstr("No such file"));
  EXPECT_THROW(write_safetensors(folder_ / "missing" / "a", {}), DataError);
  EXPECT_THROW(Safetensors{folder_}, DataError);
}

}  // namespace
}  // namespace outstep::io
