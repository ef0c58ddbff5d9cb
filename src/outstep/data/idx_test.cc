#include "outstep/data/idx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "outstep/base/memory.h"
#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

using testing::big_endian;
using testing::data_error;
using testing::gzip;
using ::testing::HasSubstr;
using testing::TempFolder;

std::string images_header(uint32_t count, uint32_t rows = 2, uint32_t columns = 3) {
  return big_endian(2051) + big_endian(count) + big_endian(rows) + big_endian(columns);
}
std::string labels_header(uint32_t count) { return big_endian(2049) + big_endian(count); }

TEST(Idx, ReadsPlainAndCompressedAlike) {
  TempFolder folder;
  const std::string bytes = images_header(2) + "abcdefghijkl";
  for (const auto& path : {folder.write("plain", bytes), folder.write("packed", gzip(bytes))}) {
    const Idx idx = read_idx(path);
    EXPECT_EQ(idx.shape, (std::vector<int64_t>{2, 2, 3}));
    EXPECT_EQ(std::string(idx.values.begin(), idx.values.end()), "abcdefghijkl");
  }
}

TEST(Idx, ReadsTheShippedSample) {
  const auto folder = testing::shipped_samples() / "fashion-mnist-sample";
  const ImageRecords records =
      open_idx_images(folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz");
  EXPECT_EQ(records.size(), 4000);
  EXPECT_EQ(records.height, 28);
  const std::vector<uint8_t> first(records.runs[0].labels, records.runs[0].labels + 6);
  EXPECT_EQ(first, (std::vector<uint8_t>{9, 0, 0, 3, 0, 2}));  // as in the original
  double sum = 0;
  for (int64_t i = 0; i < 4000 * 784; ++i) sum += records.runs[0].pixels[i];
  EXPECT_NEAR(sum / (4000 * 784 * 255.0), 0.2860, 0.002);
}

TEST(Idx, RefusesForeignFiles) {
  TempFolder folder;
  const auto error = [&](const std::string& bytes) {
    const auto path = folder.write("file", bytes);
    return data_error([&] { read_idx(path); }).substr(path.string().size());
  };
  EXPECT_EQ(error(""), ": too short for an IDX file, which begins with a magic number of 4 bytes");
  EXPECT_EQ(error("PNG!abcdef"),
            ": not an IDX file: it begins with 50 4e 47 21, where 00 00 08 and the number of dims "
            "(1 to 4) are expected");
  EXPECT_EQ(error(big_endian(0x0d01) + big_endian(1) + "abcd"),
            ": an IDX file of type 0x0d; only unsigned bytes (0x08) are read");
  EXPECT_EQ(error(big_endian(2051) + big_endian(1) + "ab"), ": cut off within the IDX header");
}

TEST(Idx, RefusesLyingHeaders) {
  TempFolder folder;
  const auto error = [&](const std::string& bytes) {
    const auto path = folder.write("file", bytes);
    return data_error([&] { read_idx(path); }).substr(path.string().size());
  };
  EXPECT_EQ(error(images_header(2) + "abcdefghijk"),
            ": the IDX header says 12 values (2×2×3), but only 11 are there; the file was cut off");
  EXPECT_EQ(error(images_header(9) + "abcdefghijk"),
            ": the IDX header says 9×2×3 values, more than the file can hold; it was cut off or is "
            "damaged");
  EXPECT_EQ(error(images_header(2) + "abcdefghijklm"),
            ": more bytes follow the 12 values (2×2×3) that the IDX header says");
  EXPECT_EQ(error(gzip(images_header(2) + "abcdefghijk")),
            ": the IDX header says 12 values (2×2×3), but only 11 are there; the file was cut off");
  EXPECT_EQ(error(gzip(images_header(2) + "abcdefghijklm")),
            ": more bytes follow the 12 values (2×2×3) that the IDX header says");
  const std::string huge = big_endian(2052) + std::string(16, '\xff');  // 2^128 values
  EXPECT_THAT(error(huge + "abc"), HasSubstr("more than the file can hold"));
  EXPECT_THAT(error(gzip(huge + "abc")), HasSubstr("more than the file can hold"));
}

// The sizes that a header may claim depend on the file's; the rest of these files is a hole.
TEST(Idx, RefusesDimsWhoseProductWrapsAround) {
  TempFolder folder;
  const auto path = folder.write("wraps.gz", gzip(big_endian(2051) + big_endian(1 << 17) +
                                                  big_endian(1 << 16) + big_endian(1u << 31)));
  std::filesystem::resize_file(path, 9'000'000);  // may hold 2^33 values, not 2^64
  EXPECT_THAT(data_error([&] { read_idx(path); }), HasSubstr("more than the file can hold"));
}

TEST(Idx, TakesNoMemoryForValuesThatDoNotCome) {
  TempFolder folder;
  const auto path = folder.write("claims.gz", gzip(labels_header(2'000'000'000) + "abc"));
  std::filesystem::resize_file(path, 2'000'000);
  const int64_t before = memory::peak_rss_bytes();
  EXPECT_THAT(data_error([&] { read_idx(path); }), HasSubstr("but only 3 are there"));
  EXPECT_LT(memory::peak_rss_bytes() - before, 200'000'000);
}

TEST(Idx, ReadsMoreThanOnePiece) {
  TempFolder folder;
  std::string values(20'000'000, 'x');
  values.back() = 'y';
  const Idx idx = read_idx(folder.write("large.gz", gzip(labels_header(20'000'000) + values)));
  EXPECT_EQ(std::string(idx.values.begin(), idx.values.end()), values);
}

// 20 MB of zeros are 20 KB compressed; the header says 6 bytes, and no more is decompressed.
TEST(Idx, RefusesABomb) {
  TempFolder folder;
  const auto path = folder.write("bomb.gz", gzip(images_header(1) + std::string(20'000'000, '\0')));
  EXPECT_LT(std::filesystem::file_size(path), 40'000u);
  EXPECT_THAT(data_error([&] { read_idx(path); }), HasSubstr("more bytes follow the 6 values"));
}

TEST(Idx, RefusesDamagedCompression) {
  TempFolder folder;
  std::string values(5000, '\0');
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<char>(i * i);
  const std::string packed = gzip(big_endian(2049) + big_endian(5000) + values);
  std::string damaged = packed;
  damaged[packed.size() - 6] ^= 1;  // in the checksum
  const auto wrong_sum = folder.write("sum.gz", damaged);
  EXPECT_THAT(data_error([&] { read_idx(wrong_sum); }),
              HasSubstr("the compressed data is damaged"));
  const auto cut = folder.write("cut.gz", packed.substr(0, packed.size() / 2));
  EXPECT_EQ(data_error([&] { read_idx(cut); }),
            cut.string() + ": the compressed data ends in the middle; the file was cut off");
}

TEST(Idx, RefusesPairsThatDoNotBelongTogether) {
  TempFolder folder;
  const auto images = folder.write("images", images_header(2) + "abcdefghijkl");
  const auto labels = folder.write("labels", labels_header(3) + std::string("\0\1\2", 3));
  EXPECT_EQ(data_error([&] { open_idx_images(images, labels); }),
            images.string() + ": 2 images, but " + labels.string() +
                " has 3 labels; the two files do not belong together");
  EXPECT_EQ(data_error([&] { open_idx_images(labels, labels); }),
            labels.string() + ": images [N, H, W] are expected; the shape is [3]");
  EXPECT_EQ(data_error([&] { open_idx_images(images, images); }),
            images.string() + ": labels [N] are expected; the shape is [2, 2, 3]");
  const auto wrong = folder.write("wrong", labels_header(2) + std::string("\0\x0b", 2));
  EXPECT_EQ(data_error([&] { open_idx_images(images, wrong); }),
            wrong.string() + ": label 1 is 11, but classes run from 0 to 9");
  const auto no_images = folder.write("none", images_header(0));
  const auto no_labels = folder.write("none too", labels_header(0));
  EXPECT_EQ(data_error([&] { open_idx_images(no_images, no_labels); }),
            no_images.string() + ": there is no image in it (shape [0, 2, 3])");
}

}  // namespace
}  // namespace outstep::data
