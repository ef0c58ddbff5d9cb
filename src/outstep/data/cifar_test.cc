#include "outstep/data/cifar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

using ::testing::HasSubstr;

// A record of CIFAR-10: label, then pixels that count up from `first`.
std::string record10(int label, int first = 0) {
  std::string record(1, static_cast<char>(label));
  for (int p = 0; p < 3072; ++p) record.push_back(static_cast<char>(first + p));
  return record;
}

TEST(Cifar, ReadsRecordsOfSeveralFiles) {
  testing::TempFolder folder;
  const auto one = folder.write("one.bin", record10(6, 59) + record10(9));
  const auto two = folder.write("two.bin", record10(3, 7));
  const ImageDataset images(open_cifar(CifarKind::cifar10, {one, two}),
                            {.mean = {0, 0, 0}, .deviation = {1, 1, 1}});
  EXPECT_EQ(images.size(), 3);
  EXPECT_EQ(images.num_classes(), 10);
  const std::vector<Dataset::Example> all = {{0, 0}, {0, 1}, {0, 2}};
  const Batch batch = images.gather(all, {});
  EXPECT_EQ(batch.inputs.sizes(), (std::vector<int64_t>{3, 3, 32, 32}));
  EXPECT_TRUE(at::equal(batch.targets, at::tensor({6, 9, 3}, at::kLong)));
  EXPECT_FLOAT_EQ(batch.inputs.index({0, 0, 0, 0}).item<float>(), 59 / 255.0f);
  EXPECT_FLOAT_EQ(batch.inputs.index({2, 2, 1, 5}).item<float>(),
                  ((7 + 2048 + 32 + 5) % 256) / 255.0f);
  EXPECT_EQ(images.describe(), "3 images of 3×32×32 in 10 classes");
}

TEST(Cifar, TakesTheFineLabelOf100) {
  testing::TempFolder folder;
  const auto file = folder.write("train.bin", std::string("\x05\x63", 2) + record10(0).substr(1));
  const ImageRecords records = open_cifar(CifarKind::cifar100, {file});
  EXPECT_EQ(records.num_classes, 100);
  EXPECT_EQ(records.runs[0].labels[0], 99);
  EXPECT_EQ(records.runs[0].pixels[1], 1);
}

TEST(Cifar, RefusesAFileThatWasCutOff) {
  testing::TempFolder folder;
  const auto file = folder.write("data_batch_3.bin", (record10(1) + record10(2)).substr(0, 6145));
  const std::string error = testing::data_error([&] { open_cifar(CifarKind::cifar10, {file}); });
  EXPECT_EQ(error,
            file.string() +
                ": 6,145 bytes is not a whole number of 3,073-byte records (one byte short).\n"
                "  The file was probably cut off; fetch it again with: outstep data get cifar10");
  const auto shorter = folder.write("train.bin", std::string(3000, '\0'));
  EXPECT_THAT(
      testing::data_error([&] { open_cifar(CifarKind::cifar100, {shorter}); }),
      HasSubstr("3,000 bytes is not a whole number of 3,074-byte records (74 bytes short)"));
}

TEST(Cifar, RefusesAMissingAnEmptyAndAForeignFile) {
  testing::TempFolder folder;
  EXPECT_THAT(
      testing::data_error([&] { open_cifar(CifarKind::cifar10, {folder.path() / "absent.bin"}); }),
      HasSubstr("absent.bin"));
  const auto empty = folder.write("empty.bin", "");
  EXPECT_EQ(testing::data_error([&] { open_cifar(CifarKind::cifar10, {empty}); }),
            empty.string() + ": the file is empty; fetch it again with: outstep data get cifar10");
  const auto foreign = folder.write("foreign.bin", record10(1) + record10(77));
  EXPECT_EQ(testing::data_error([&] { open_cifar(CifarKind::cifar10, {foreign}); }),
            foreign.string() +
                ": record 1 (byte 3,073) has label 77, but classes run from 0 to 9.\n"
                "  The file is not cifar10's, or is damaged; fetch it again with: outstep data get "
                "cifar10");
}

}  // namespace
}  // namespace outstep::data
