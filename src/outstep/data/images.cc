#include "outstep/data/images.h"

#include <algorithm>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/base/rng.h"
#include "outstep/base/text.h"
#include "outstep/data/augment.h"

namespace outstep::data {
namespace {

// Writes row[0, width) from source[right, right + width), reading black outside [0, width).
void write_row(const uint8_t* source, int64_t width, int64_t right, bool flipped, float scale,
               float shift, float* row) {
  const int64_t begin =
      std::clamp<int64_t>(-right, 0, width);  // columns with a source, before the flip
  const int64_t end = std::clamp<int64_t>(width - right, 0, width);
  if (flipped) {
    std::fill(row, row + (width - end), shift);
    const uint8_t* last = source + right + end - 1;
    float* into = row + (width - end);
    for (int64_t x = 0; x < end - begin; ++x)
      into[x] = static_cast<float>(last[-x]) * scale + shift;
    std::fill(row + (width - begin), row + width, shift);
  } else {
    std::fill(row, row + begin, shift);
    const uint8_t* first = source + right + begin;
    float* into = row + begin;
    for (int64_t x = 0; x < end - begin; ++x)
      into[x] = static_cast<float>(first[x]) * scale + shift;
    std::fill(row + end, row + width, shift);
  }
}

}  // namespace

int64_t ImageRecords::size() const {
  int64_t size = 0;
  for (const Run& run : runs) size += run.num_records;
  return size;
}

ImageDataset::ImageDataset(ImageRecords records, ImageOptions options)
    : records_(std::move(records)), options_(std::move(options)), size_(records_.size()) {
  const auto channels = static_cast<size_t>(records_.channels);
  if (options_.mean.size() != channels || options_.deviation.size() != channels) {
    throw ConfigError(
        "data.mean has {} values and data.deviation {}; images of {} channels need {} each",
        options_.mean.size(), options_.deviation.size(), channels, channels);
  }
  for (size_t c = 0; c < channels; ++c) {
    if (!(options_.deviation[c] > 0)) {
      throw ConfigError("data.deviation has {}; it must be above 0", options_.deviation[c]);
    }
    scale_.push_back(static_cast<float>(1 / (255 * options_.deviation[c])));
    shift_.push_back(static_cast<float>(-options_.mean[c] / options_.deviation[c]));
  }
  if (options_.crop_padding < 0 ||
      options_.crop_padding >= std::min(records_.height, records_.width)) {
    throw ConfigError(
        "data.crop_padding is {}; it must be 0 or more, and less than the images' {} pixels",
        options_.crop_padding, std::min(records_.height, records_.width));
  }
  for (const auto& [key, alpha] :
       {std::pair("mixup", options_.mixup), {"cutmix", options_.cutmix}}) {
    if (alpha >= 0) continue;
    throw ConfigError("data.{} is {}; it must be 0 (none) or more", key, alpha);
  }
  if (!(options_.random_erasing >= 0 && options_.random_erasing <= 1)) {
    throw ConfigError("data.random_erasing is {}; it is a probability, from 0 to 1",
                      options_.random_erasing);
  }
  int64_t begin = 0;
  for (const ImageRecords::Run& run : records_.runs) {
    run_begins_.push_back(begin);
    begin += run.num_records;
  }
}

Batch ImageDataset::gather(std::span<const Example> examples, const Draw& draw) const {
  const auto num = static_cast<int64_t>(examples.size());  // B
  Batch batch;
  batch.inputs = at::empty({num, records_.channels, records_.height, records_.width},
                           at::kFloat);         // [B, C, H, W]
  batch.targets = at::empty({num}, at::kLong);  // [B]
  batch.num_samples = num;
  batch.num_units = num;
  auto* inputs = batch.inputs.mutable_data_ptr<float>();
  auto* targets = batch.targets.mutable_data_ptr<int64_t>();
  const int64_t values = records_.channels * records_.height * records_.width;
  for (int64_t i = 0; i < num; ++i) {
    const Example& example = examples[static_cast<size_t>(i)];
    check(example.index >= 0 && example.index < size_, "an example lies in its dataset");
    const auto after = std::upper_bound(run_begins_.begin(), run_begins_.end(), example.index);
    const auto which = static_cast<size_t>(after - run_begins_.begin()) - 1;
    const ImageRecords::Run& run = records_.runs[which];
    const int64_t record = example.index - run_begins_[which];
    targets[i] = run.labels[record * run.labels_stride];
    write_image(run.pixels + record * run.pixels_stride, place(example, draw), inputs + i * values);
    erase(example, draw, inputs + i * values);
  }
  const MixOptions mixing{
      .mixup = options_.mixup, .cutmix = options_.cutmix, .num_classes = records_.num_classes};
  if (draw.augment && mixing.mixes()) {
    mix(batch, mixing,
        {.seed = draw.seed,
         .purpose = purpose("data.mix"),
         .stream = static_cast<uint64_t>(draw.micro_batch)});
  }
  return batch;
}

ImageDataset::Placement ImageDataset::place(const Example& example, const Draw& draw) const {
  Placement placement;
  if (!draw.augment || (options_.crop_padding == 0 && !options_.flip)) return placement;
  CounterRng rng({.seed = draw.seed,
                  .purpose = purpose("data.augment"),
                  .stream = static_cast<uint64_t>(example.epoch * size_ + example.index)});
  if (options_.crop_padding > 0) {
    const auto places = static_cast<uint64_t>(2 * options_.crop_padding + 1);
    placement.down = static_cast<int64_t>(rng.below(places)) - options_.crop_padding;
    placement.right = static_cast<int64_t>(rng.below(places)) - options_.crop_padding;
  }
  if (options_.flip) placement.flipped = rng.below(2) == 1;
  return placement;
}

void ImageDataset::erase(const Example& example, const Draw& draw, float* image) const {
  if (!draw.augment || options_.random_erasing == 0) return;
  CounterRng rng({.seed = draw.seed,
                  .purpose = purpose("data.erase"),
                  .stream = static_cast<uint64_t>(example.epoch * size_ + example.index)});
  const ImageSize size{.height = records_.height, .width = records_.width};
  const auto patch = draw_erased(size, options_.random_erasing, rng);
  if (!patch) return;
  for (int64_t c = 0; c < records_.channels; ++c) {
    for (int64_t y = patch->top; y < patch->top + patch->height; ++y) {
      float* row = image + (c * size.height + y) * size.width + patch->left;
      std::fill(row, row + patch->width, 0.0F);
    }
  }
}

void ImageDataset::write_image(const uint8_t* pixels, const Placement& placement,
                               float* into) const {
  const int64_t height = records_.height;
  const int64_t width = records_.width;
  for (int64_t c = 0; c < records_.channels; ++c) {
    const float scale = scale_[static_cast<size_t>(c)];
    const float shift = shift_[static_cast<size_t>(c)];
    for (int64_t y = 0; y < height; ++y) {
      float* row = into + (c * height + y) * width;
      const int64_t from = y + placement.down;
      if (from < 0 || from >= height) {
        std::fill(row, row + width, shift);
      } else {
        write_row(pixels + (c * height + from) * width, width, placement.right, placement.flipped,
                  scale, shift, row);
      }
    }
  }
}

std::string ImageDataset::describe() const {
  return fmt::format("{} images of {}×{}×{} in {} classes", with_commas(size_), records_.channels,
                     records_.height, records_.width, records_.num_classes);
}

}  // namespace outstep::data
