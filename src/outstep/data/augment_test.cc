#include "outstep/data/augment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "outstep/data/images.h"
#include "outstep/data/stream.h"
#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kNumClasses = 4;

RngKey key(uint64_t stream) { return {.seed = 7, .purpose = purpose("test"), .stream = stream}; }

Batch make_batch(int64_t num) {
  Batch batch;
  batch.inputs = at::arange(num * 3 * 8 * 6, at::kFloat).sin().view({num, 3, 8, 6});
  batch.targets = at::arange(num, at::kLong).remainder(kNumClasses);
  return batch;
}

// λ of image 0, whose class differs from its partner's.
double share_of(const Batch& mixed) { return mixed.targets[0][0].item<double>(); }

at::Tensor targets_by(double share, const Batch& plain) {
  const at::Tensor classes = at::one_hot(plain.targets, kNumClasses).to(at::kDouble);
  return share * classes + (1 - share) * classes.flip(0);
}

TEST(Augment, MixupIsTheFormula) {
  for (const int64_t num : {4, 6, 7}) {
    for (uint64_t k = 0; k < 20; ++k) {
      const Batch plain = make_batch(num);
      Batch batch = make_batch(num);
      mix(batch, {.mixup = 1, .num_classes = kNumClasses}, key(k));
      const double share = batch.targets[0].max().item<double>() < 1 ? share_of(batch) : 1;
      EXPECT_TRUE(at::allclose(batch.inputs,
                               share * plain.inputs + (1 - share) * plain.inputs.flip(0), 0, 1e-6));
      EXPECT_TRUE(at::equal(batch.targets, targets_by(share, plain)));
      EXPECT_TRUE(at::allclose(batch.targets.sum(1), at::ones({num}, at::kDouble)));
    }
  }
}

// A rectangle is the partner's, the rest is the image's own, and λ is what is left of it.
TEST(Augment, CutMixIsTheFormula) {
  std::set<double> shares;
  for (uint64_t k = 0; k < 200; ++k) {
    const Batch plain = make_batch(4);
    Batch batch = make_batch(4);
    mix(batch, {.cutmix = 1, .num_classes = kNumClasses}, key(k));
    const at::Tensor own = batch.inputs.eq(plain.inputs),
                     partners = batch.inputs.eq(plain.inputs.flip(0));
    EXPECT_TRUE(own.logical_or(partners).all().item<bool>());
    const at::Tensor cut = own[0][0].logical_not();  // [8, 6], the same of all
    EXPECT_TRUE(own.logical_not().eq(cut).all().item<bool>());
    const int64_t rows = cut.any(1).sum().item<int64_t>(),
                  columns = cut.any(0).sum().item<int64_t>();
    EXPECT_EQ(cut.sum().item<int64_t>(), rows * columns);
    const double share = 1 - static_cast<double>(rows * columns) / (8 * 6);
    EXPECT_TRUE(at::equal(batch.targets, targets_by(share, plain)));
    shares.insert(share);
  }
  EXPECT_GT(shares.size(), 10);
}

TEST(Augment, BothAreTakenHalfOfTheTime) {
  int cuts = 0;
  constexpr int kTimes = 2000;
  for (uint64_t k = 0; k < kTimes; ++k) {
    const Batch plain = make_batch(4);
    Batch batch = make_batch(4);
    mix(batch, {.mixup = 0.5, .cutmix = 1, .num_classes = kNumClasses}, key(k));
    const at::Tensor whole =
        batch.inputs.eq(plain.inputs).logical_or(batch.inputs.eq(plain.inputs.flip(0)));
    cuts += whole.all().item<bool>();
  }
  EXPECT_NEAR(cuts / double(kTimes), 0.5, 0.05);
}

// Mean 1/2, variance 1 / (4 (2 α + 1)), and for α = 1 uniform.
TEST(Augment, BetaHasItsMoments) {
  for (const double alpha : {0.01, 0.2, 0.5, 1.0, 3.0, 100.0}) {
    CounterRng rng(key(static_cast<uint64_t>(1000 * alpha)));
    constexpr int kNum = 40000;
    double sum = 0, squares = 0;
    int below_quarter = 0;
    for (int i = 0; i < kNum; ++i) {
      const double x = draw_beta(alpha, rng);
      ASSERT_TRUE(x >= 0 && x <= 1) << x;
      sum += x;
      squares += (x - 0.5) * (x - 0.5);
      below_quarter += x < 0.25;
    }
    EXPECT_NEAR(sum / kNum, 0.5, 0.01) << alpha;
    EXPECT_NEAR(squares / kNum * 4 * (2 * alpha + 1), 1, 0.03) << alpha;
    const double share_below = below_quarter / double(kNum);
    if (alpha == 1) {
      EXPECT_NEAR(share_below, 0.25, 0.01);
    } else if (alpha == 0.5) {  // arcsine's distribution: 2/π asin(1/2)
      EXPECT_NEAR(share_below, 1.0 / 3, 0.01);
    }
  }
}

TEST(Augment, ErasedPatchesHaveTheirSizesAndPlaces) {
  const ImageSize size{.height = 32, .width = 32};
  int erased = 0;
  double smallest = 1, largest = 0, steepest = 0, flattest = 9, mean_area = 0;
  constexpr int kTimes = 20000;
  for (uint64_t k = 0; k < kTimes; ++k) {
    CounterRng rng(key(k));
    const auto patch = draw_erased(size, 0.35, rng);
    if (!patch) continue;
    ++erased;
    ASSERT_TRUE(patch->top >= 0 && patch->top + patch->height <= 32);
    ASSERT_TRUE(patch->left >= 0 && patch->left + patch->width <= 32);
    const double area = double(patch->height * patch->width) / (32 * 32);
    const double aspect = double(patch->height) / double(patch->width);
    smallest = std::min(smallest, area);
    largest = std::max(largest, area);
    steepest = std::max(steepest, aspect);
    flattest = std::min(flattest, aspect);
    mean_area += area;
  }
  EXPECT_NEAR(erased / double(kTimes), 0.35, 0.015);
  EXPECT_NEAR(mean_area / erased, (0.02 + 0.33) / 2, 0.01);
  EXPECT_NEAR(smallest, 0.02, 0.006);  // whole pixels
  EXPECT_NEAR(largest, 0.33, 0.02);
  EXPECT_NEAR(steepest, 3.3, 0.8);
  EXPECT_NEAR(flattest, 0.3, 0.08);
  CounterRng rng(key(0));
  EXPECT_FALSE(draw_erased(size, 0, rng));
  EXPECT_TRUE(draw_erased(size, 1, rng));
}

// 40 images of 2×8×8 pixels of value 100 + their number, of 4 classes.
ImageRecords make_records() {
  constexpr int64_t kNum = 40, kPixels = 2 * 8 * 8;
  auto bytes = std::make_shared<std::vector<uint8_t>>();
  for (int64_t i = 0; i < kNum; ++i) {
    bytes->push_back(static_cast<uint8_t>(i % kNumClasses));
    bytes->insert(bytes->end(), kPixels, static_cast<uint8_t>(100 + i));
  }
  return {.channels = 2,
          .height = 8,
          .width = 8,
          .num_classes = kNumClasses,
          .runs = {{.owner = bytes,
                    .pixels = bytes->data() + 1,
                    .labels = bytes->data(),
                    .pixels_stride = kPixels + 1,
                    .labels_stride = kPixels + 1,
                    .num_records = kNum}}};
}

ImageOptions options() { return {.mean = {0.2, 0.2}, .deviation = {0.5, 0.5}}; }

StreamOptions drawn(int replica = 0, int num_replicas = 1) {
  return {.micro_batch = 8,
          .replica = replica,
          .num_replicas = num_replicas,
          .seed = 5,
          .augment = true,
          .prefetch = 0};
}

TEST(Augment, ErasesToTheMeanWhatNothingElseTouches) {
  ImageOptions erasing = options();
  erasing.random_erasing = 1;
  const ImageDataset images(make_records(), erasing);
  const std::vector<Dataset::Example> examples = {{3, 7}, {3, 8}};
  const at::Tensor plain = images.gather(examples, {.seed = 1}).inputs,
                   erased = images.gather(examples, {.seed = 1, .augment = true}).inputs;
  const at::Tensor is_erased = erased.eq(0);
  EXPECT_TRUE(at::equal(erased, plain.masked_fill(is_erased, 0)));
  EXPECT_TRUE(is_erased.select(1, 0).equal(is_erased.select(1, 1)));  // all channels
  for (int64_t i = 0; i < 2; ++i) EXPECT_TRUE(is_erased[i].any().item<bool>());
  // Whatever else is in the batch.
  const std::vector<Dataset::Example> one = {{3, 8}};
  EXPECT_TRUE(at::equal(images.gather(one, {.seed = 1, .augment = true}).inputs[0], erased[1]));
}

// A micro-batch is the same whoever draws it and however often, with what comes before it or
// without; each has a share of its own; and the images of evaluation are as they are.
TEST(Augment, IsAFunctionOfSeedAndMicroBatch) {
  ImageOptions all = options();
  all.crop_padding = 1;
  all.flip = true;
  all.mixup = 0.5;
  all.cutmix = 1;
  all.random_erasing = 0.35;
  const auto images = std::make_shared<ImageDataset>(make_records(), all);
  Stream alone(images, drawn()), second(images, drawn(1, 2)), resumed(images, drawn());
  std::vector<Batch> batches;
  for (int i = 0; i < 8; ++i) batches.push_back(alone.next());
  for (size_t i = 1; i < 8; i += 2) {
    const Batch batch = second.next();
    EXPECT_TRUE(at::equal(batch.inputs, batches[i].inputs));
    EXPECT_TRUE(at::equal(batch.targets, batches[i].targets));
  }
  resumed.seek(5);
  EXPECT_TRUE(at::equal(resumed.next().inputs, batches[5].inputs));
  EXPECT_TRUE(at::equal(resumed.next().targets, batches[6].targets));
  std::set<double> shares;
  for (const Batch& batch : batches) {
    EXPECT_EQ(batch.targets.sizes(), (std::vector<int64_t>{8, kNumClasses}));
    EXPECT_EQ(batch.num_units, 8);
    shares.insert(batch.targets.masked_select(batch.targets.gt(0)).min().item<double>());
  }
  EXPECT_GE(shares.size(), 5);

  const Batch evaluated = Sweep(images, 8).batch(1);
  EXPECT_EQ(evaluated.targets.scalar_type(), at::kLong);
  EXPECT_TRUE(
      at::equal(evaluated.inputs,
                ImageDataset(make_records(), options())
                    .gather(
                        std::vector<Dataset::Example>{
                            {0, 8}, {0, 9}, {0, 10}, {0, 11}, {0, 12}, {0, 13}, {0, 14}, {0, 15}},
                        {})
                    .inputs));
}

TEST(Augment, RefusesWhatIsOutOfRange) {
  const auto make = [](ImageOptions wrong) {
    return testing::message_of<ConfigError>([&] { ImageDataset(make_records(), wrong); });
  };
  ImageOptions wrong = options();
  wrong.cutmix = -1;
  EXPECT_EQ(make(wrong), "data.cutmix is -1; it must be 0 (none) or more");
  wrong = options();
  wrong.random_erasing = 1.5;
  EXPECT_EQ(make(wrong), "data.random_erasing is 1.5; it is a probability, from 0 to 1");
}

}  // namespace
}  // namespace outstep::data
