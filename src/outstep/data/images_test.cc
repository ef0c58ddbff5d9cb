#include "outstep/data/images.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <tuple>

#include "outstep/base/errors.h"
#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

// Images of 2×4×4 whose pixel (c, y, x) of image i is 64·i + 16·c + 4·y + x, in two runs with a
// label before the pixels.
ImageRecords make_records() {
  constexpr int64_t kPixels = 2 * 4 * 4;
  ImageRecords records{.channels = 2, .height = 4, .width = 4, .num_classes = 10, .runs = {}};
  int64_t number = 0;
  for (const int64_t num : {1, 2}) {
    auto bytes = std::make_shared<std::vector<uint8_t>>();
    for (int64_t i = 0; i < num; ++i, ++number) {
      bytes->push_back(static_cast<uint8_t>(9 - number));
      for (int64_t p = 0; p < kPixels; ++p) bytes->push_back(static_cast<uint8_t>(64 * number + p));
    }
    records.runs.push_back({.owner = bytes,
                            .pixels = bytes->data() + 1,
                            .labels = bytes->data(),
                            .pixels_stride = kPixels + 1,
                            .labels_stride = kPixels + 1,
                            .num_records = num});
  }
  return records;
}

ImageOptions plain() { return {.mean = {0, 0}, .deviation = {1, 1}}; }

// The value before it was normalised by plain().
double pixel(const Batch& batch, int64_t i, int64_t c, int64_t y, int64_t x) {
  const int64_t at = ((i * 2 + c) * 4 + y) * 4 + x;
  return std::round(batch.inputs.const_data_ptr<float>()[at] * 255.0);
}

TEST(Images, GathersFromAllRuns) {
  const ImageDataset images(make_records(), plain());
  EXPECT_EQ(images.size(), 3);
  const std::vector<Dataset::Example> examples = {{0, 2}, {0, 0}, {0, 1}};
  const Batch batch = images.gather(examples, {});
  EXPECT_EQ(batch.inputs.sizes(), (std::vector<int64_t>{3, 2, 4, 4}));
  EXPECT_EQ(batch.num_units, 3);
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t number = examples[static_cast<size_t>(i)].index;
    EXPECT_EQ(batch.targets[i].item<int64_t>(), 9 - number);
    EXPECT_EQ(pixel(batch, i, 1, 2, 3), 64 * number + 16 + 8 + 3);
  }
}

TEST(Images, AreNormalisedByChannel) {
  const ImageDataset images(make_records(), {.mean = {0.5, 0.25}, .deviation = {0.5, 0.1}});
  const std::vector<Dataset::Example> examples = {{0, 1}};
  const at::Tensor inputs = images.gather(examples, {}).inputs;
  EXPECT_NEAR(inputs.index({0, 0, 0, 2}).item<double>(), (66 / 255.0 - 0.5) / 0.5, 1e-6);
  EXPECT_NEAR(inputs.index({0, 1, 3, 0}).item<double>(), (92 / 255.0 - 0.25) / 0.1, 1e-6);
}

// Every augmented image must be the original, moved by at most the padding, black around it,
// perhaps flipped.
TEST(Images, AugmentedAreMovedAndFlippedCopies) {
  ImageOptions options = plain();
  options.crop_padding = 2;
  options.flip = true;
  const ImageDataset images(make_records(), options);
  std::set<std::tuple<int64_t, int64_t, bool>> seen;
  for (int64_t epoch = 0; epoch < 1000; ++epoch) {
    const std::vector<Dataset::Example> examples = {{epoch, 1}};
    const Batch batch = images.gather(examples, {.seed = 3, .augment = true});
    int matches = 0;
    for (int64_t down = -2; down <= 2; ++down) {
      for (int64_t right = -2; right <= 2; ++right) {
        for (const bool flipped : {false, true}) {
          bool same = true;
          for (int64_t c = 0; c < 2; ++c) {
            for (int64_t y = 0; y < 4; ++y) {
              for (int64_t x = 0; x < 4; ++x) {
                const int64_t fy = y + down;
                const int64_t fx = (flipped ? 3 - x : x) + right;
                const bool inside = fy >= 0 && fy < 4 && fx >= 0 && fx < 4;
                const auto wanted = static_cast<double>(inside ? 64 + 16 * c + 4 * fy + fx : 0);
                same = same && pixel(batch, 0, c, y, x) == wanted;
              }
            }
          }
          if (same) {
            ++matches;
            seen.emplace(down, right, flipped);
          }
        }
      }
    }
    ASSERT_EQ(matches, 1) << "epoch " << epoch;
  }
  EXPECT_EQ(seen.size(), 50);  // every place, both ways round
}

TEST(Images, AugmentationIsAFunctionOfSeedEpochAndIndex) {
  ImageOptions options = plain();
  options.crop_padding = 2;
  options.flip = true;
  const ImageDataset images(make_records(), options);
  const std::vector<Dataset::Example> many = {{4, 0}, {4, 1}, {4, 2}};
  const std::vector<Dataset::Example> one = {{4, 1}};
  const at::Tensor together = images.gather(many, {.seed = 5, .augment = true}).inputs;
  const at::Tensor alone = images.gather(one, {.seed = 5, .augment = true}).inputs;
  EXPECT_TRUE(at::equal(together[1], alone[0]));
  int differing = 0;
  for (uint64_t seed = 6; seed < 16; ++seed) {
    differing += !at::equal(alone, images.gather(one, {.seed = seed, .augment = true}).inputs);
  }
  EXPECT_GE(differing, 8);
  EXPECT_TRUE(
      at::equal(images.gather(one, {.seed = 5}).inputs, images.gather(one, {.seed = 6}).inputs));
}

TEST(Images, RefusesOptionsThatDoNotFit) {
  const auto make = [](ImageOptions options) {
    return testing::message_of<ConfigError>([&] { ImageDataset(make_records(), options); });
  };
  EXPECT_EQ(make({.mean = {0}, .deviation = {1, 1}}),
            "data.mean has 1 values and data.deviation 2; images of 2 channels need 2 each");
  EXPECT_EQ(make({.mean = {0, 0}, .deviation = {1, 0}}),
            "data.deviation has 0; it must be above 0");
  EXPECT_EQ(make({.mean = {0, 0}, .deviation = {1, 1}, .crop_padding = 4}),
            "data.crop_padding is 4; it must be 0 or more, and less than the images' 4 pixels");
}

}  // namespace
}  // namespace outstep::data
