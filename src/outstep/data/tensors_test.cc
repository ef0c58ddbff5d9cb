#include "outstep/data/tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "outstep/data/testing.h"
#include "outstep/io/safetensors.h"

namespace outstep::data {
namespace {

using testing::data_error;
using ::testing::HasSubstr;
using testing::TempFolder;

std::filesystem::path write(const TempFolder& folder, const at::Tensor& inputs,
                            const at::Tensor& labels) {
  const auto path = folder.path() / "examples.safetensors";
  io::write_safetensors(path, {{"inputs", inputs}, {"labels", labels}});
  return path;
}

TEST(Tensors, GatherSamplesAndClasses) {
  TempFolder folder;
  const at::Tensor inputs = at::arange(12, at::kFloat).view({4, 3});
  const TensorDataset data(write(folder, inputs.to(at::kHalf), at::tensor({2, 0, 5, 1}, at::kInt)));
  EXPECT_EQ(data.size(), 4);
  EXPECT_EQ(data.unit(), "samples");
  EXPECT_EQ(data.num_classes(), 6);
  EXPECT_EQ(data.describe(), "4 examples of 3");
  const std::vector<Dataset::Example> examples = {{0, 3}, {0, 1}};
  const Batch batch = data.gather(examples, {});
  EXPECT_TRUE(at::equal(batch.inputs, at::tensor({9, 10, 11, 3, 4, 5}, at::kFloat).view({2, 3})));
  EXPECT_TRUE(at::equal(batch.targets, at::tensor({1, 0}, at::kLong)));
  EXPECT_EQ(batch.num_units, 2);
}

TEST(Tensors, GatherTokens) {
  TempFolder folder;
  const at::Tensor tokens = at::arange(15, at::kInt).view({3, 5});
  const TensorDataset data(write(folder, tokens.slice(1, 0, 4), tokens.slice(1, 1, 5)));
  EXPECT_EQ(data.unit(), "tokens");
  EXPECT_EQ(data.num_classes(), 15);
  EXPECT_EQ(data.input_shape(), (std::vector<int64_t>{4}));
  const std::vector<Dataset::Example> examples = {{0, 1}};
  const Batch batch = data.gather(examples, {});
  EXPECT_TRUE(at::equal(batch.targets, at::tensor({6, 7, 8, 9}, at::kLong).view({1, 4})));
  EXPECT_EQ(batch.inputs.scalar_type(), at::kLong);
  EXPECT_EQ(batch.num_units, 4);
}

TEST(Tensors, TakeUnsignedIntegers) {
  TempFolder folder;
  const std::vector<Dataset::Example> examples = {{0, 1}};
  for (const at::ScalarType type : {at::kByte, at::kUInt16, at::kUInt32}) {
    const at::Tensor tokens = at::tensor({1, 2, 3, 250, 5, 6}, at::kLong).view({2, 3}).to(type);
    const TensorDataset data(write(folder, tokens, tokens));
    EXPECT_EQ(data.num_classes(), 251);
    EXPECT_TRUE(at::equal(data.gather(examples, {}).inputs,
                          at::tensor({250, 5, 6}, at::kLong).view({1, 3})));
    const TensorDataset classes(write(folder, at::zeros({2, 3}), tokens.select(1, 0).contiguous()));
    EXPECT_TRUE(at::equal(classes.gather(examples, {}).targets, at::tensor({250}, at::kLong)));
  }
}

TEST(Tensors, ImagesAreCalledImages) {
  TempFolder folder;
  const TensorDataset data(write(folder, at::zeros({2, 1, 4, 4}), at::zeros({2}, at::kLong)));
  EXPECT_EQ(data.unit(), "images");
  EXPECT_EQ(data.slice(1, 2).size(), 1);
}

TEST(Tensors, MicroBatchesAreExamplesInTheirOrder) {
  TempFolder folder;
  const at::Tensor inputs = at::arange(24, at::kDouble).view({2, 3, 4}).div(7);
  const TensorDataset data(
      write(folder, inputs, at::tensor({0, 1, 2, 3, 4, 5}, at::kLong).view({2, 3})));
  EXPECT_EQ(data.size(), 6);
  EXPECT_EQ(data.micro_batch(), 3);
  EXPECT_EQ(data.num_classes(), 6);
  EXPECT_EQ(data.input_shape(), (std::vector<int64_t>{4}));
  const std::vector<Dataset::Example> second = {{0, 3}, {0, 4}, {0, 5}};
  const Batch batch = data.gather(second, {});
  EXPECT_TRUE(at::equal(batch.inputs, inputs[1]));  // float64 stays
  EXPECT_TRUE(at::equal(batch.targets, at::tensor({3, 4, 5}, at::kLong)));
}

TEST(Tensors, RefuseWhatDoesNotFit) {
  TempFolder folder;
  const auto error = [&](const at::Tensor& inputs, const at::Tensor& labels) {
    const auto path = write(folder, inputs, labels);
    const std::string text = data_error([&] { TensorDataset data(path); });
    return text.substr(std::min(text.size(), path.string().size()));
  };
  const at::Tensor labels = at::zeros({4}, at::kLong);
  EXPECT_EQ(error(at::zeros({3, 2}), labels),
            ": inputs are Float [3, 2], but labels are Long [4]; they do not belong together");
  EXPECT_EQ(error(at::zeros({4, 2}), at::zeros({4})),
            ": inputs are Float [4, 2] and labels Float [4]; expected are floating-point inputs "
            "[N, …] with integer "
            "labels [N],\n  the same by micro-batches, [M, B, …] with [M, B], or integer inputs "
            "[N, T] with "
            "integer labels [N, T]");
  EXPECT_THAT(error(at::zeros({4, 2}, at::kLong), labels), HasSubstr("expected are"));
  EXPECT_THAT(error(at::zeros({4, 2}, at::kLong), at::zeros({4, 3}, at::kLong)),
              HasSubstr("do not belong together"));
  EXPECT_EQ(error(at::zeros({4, 2}), labels - 1),
            ": there is a label -1; labels must not be negative");
  EXPECT_EQ(error(at::full({4, 2}, -7, at::kLong), at::zeros({4, 2}, at::kLong)),
            ": there is a token -7; tokens must not be negative");
  EXPECT_EQ(error(at::zeros({0, 2}), at::zeros({0}, at::kLong)), ": there is no example in it");
  constexpr int64_t kBound = int64_t{1} << 31;
  EXPECT_EQ(error(at::zeros({4, 2}), labels + kBound),
            ": there is a label 2,147,483,648; labels must be below 2,147,483,648");
  EXPECT_EQ(error(at::zeros({4, 2}), labels + (kBound - 1)), "");
  EXPECT_THAT(error(at::zeros({4, 2}), labels + std::numeric_limits<int64_t>::max()),
              HasSubstr("labels must be below"));
  EXPECT_THAT(
      error((at::zeros({4, 2}, at::kLong) + kBound).to(at::kUInt32), at::zeros({4, 2}, at::kLong)),
      HasSubstr("there is a token 2,147,483,648"));
  EXPECT_EQ(error(at::zeros({4, 2}), labels.to(at::kUInt64)),
            ": labels are of type U64, which is not read; write them as I64");
}

TEST(Tensors, RefuseFilesWithoutTheTwoTensors) {
  TempFolder folder;
  const auto path = folder.path() / "other.safetensors";
  io::write_safetensors(path, {{"inputs", at::zeros({1, 2})}});
  EXPECT_THAT(data_error([&] { TensorDataset data(path); }), HasSubstr("labels"));
  EXPECT_NE(data_error([&] { TensorDataset data(folder.path() / "absent"); }), "");
}

}  // namespace
}  // namespace outstep::data
