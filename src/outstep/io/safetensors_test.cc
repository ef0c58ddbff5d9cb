#include "outstep/io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

TEST_F(SafetensorsFile, RefusesBadJson) {
  EXPECT_THAT(complaint_about("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(complaint_about("[]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(complaint_about("{\"a\xFF\": 1}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(complaint_about("{} {}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(complaint_about(std::string(100'000, '[')),
              testing::AnyOf(HasSubstr("deeply"), HasSubstr("JSON")));
  EXPECT_THAT(complaint_about(R"({"a":{"b":{"c":{"d":{"e":{}}}}}})"),
              HasSubstr("nests too deeply"));
}

TEST_F(SafetensorsFile, RefusesNamesThatStandTwice) {
  const std::string entry = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  EXPECT_THAT(complaint_about(fmt::format(R"({{"a":{},"a":{}}})", entry, entry)),
              HasSubstr("\"a\" stands twice"));
  EXPECT_THAT(
      complaint_about(R"({"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})"),
      HasSubstr("\"shape\" stands twice"));
}

TEST_F(SafetensorsFile, RefusesEntriesThatAreNotTensors) {
  EXPECT_THAT(complaint_about(R"({"a":1})"), HasSubstr("must hold dtype, shape and data_offsets"));
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})"),
              HasSubstr("tensor \"a\": unknown dtype \"F33\""));
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})"),
              HasSubstr("-2 is not a size"));
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})"),
              HasSubstr("is not a size"));
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})"),
              HasSubstr("of two numbers"));
  EXPECT_THAT(complaint_about(R"({"__metadata__":{"a":1}})", 0), HasSubstr("is not text"));
}

TEST_F(SafetensorsFile, RefusesBytesThatDoNotFit) {
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,9]}})"),
              HasSubstr("not within the 8 bytes"));
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})"),
              HasSubstr("not within"));
  EXPECT_THAT(complaint_about(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})"),
              HasSubstr("its shape needs 12 bytes, its data_offsets hold 8"));
  EXPECT_THAT(
      complaint_about(
          R"({"a":{"dtype":"F32","shape":[4611686018427387904,4611686018427387904],"data_offsets":[0,8]}})"),
      HasSubstr("overflows"));
  EXPECT_THAT(complaint_about(
                  R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})"),
              HasSubstr("is not a size"));
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
  EXPECT_THAT(complaint_about(two(5, 8)), HasSubstr("there is a hole"));
  EXPECT_THAT(complaint_about(two(4, 7)), HasSubstr("1 bytes of data belong to no tensor"));
}

TEST_F(SafetensorsFile, AFailedWriteLeavesTheOldFile) {
  write_safetensors(path_, {{"a", at::ones({2})}});
  const std::string before = read_text(path_);
  {
    AtomicFile file(path_);
    file.write("half of a file");
  }
  EXPECT_EQ(read_text(path_), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1)
      << "nothing temporary is left";
}

TEST_F(SafetensorsFile, NamesAFileThatCannotBeReadOrWritten) {
  EXPECT_THAT(complaint(), HasSubstr("No such file"));
  EXPECT_THROW(write_safetensors(folder_ / "missing" / "a", {}), DataError);
  EXPECT_THROW(Safetensors{folder_}, DataError);
}

}  // namespace
}  // namespace outstep::io
