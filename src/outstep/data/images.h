#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "outstep/data/dataset.h"

namespace outstep::data {

// Labelled images as bytes: runs of equally spaced records, in memory or in mapped files, so that
// ranks of one machine share them.
struct ImageRecords {
  struct Run {
    std::shared_ptr<const void> owner;  // keeps the bytes alive
    const uint8_t* pixels = nullptr;    // [C, H, W] of the first record
    const uint8_t* labels = nullptr;    // of the first record
    int64_t pixels_stride = 0;          // bytes from a record to the next
    int64_t labels_stride = 0;
    int64_t num_records = 0;
  };
  int64_t channels = 0;  // C
  int64_t height = 0;    // H
  int64_t width = 0;     // W
  int64_t num_classes = 0;
  std::vector<Run> runs;

  int64_t size() const;
};

struct ImageOptions {
  std::vector<double> mean;       // [C], of values in [0, 1]
  std::vector<double> deviation;  // [C]
  int64_t crop_padding = 0;       // when augmenting; 0: no crop
  bool flip = false;              // when augmenting
  double mixup = 0;               // when augmenting: alpha (augment.h); 0: none
  double cutmix = 0;              // likewise
  double random_erasing = 0;      // when augmenting: its probability
};

// Images as float32 [B, C, H, W], (value / 255 - mean) / deviation.
//
// Augmented, image i of epoch e is cropped at a place drawn from the image with crop_padding black
// pixels around it, flipped left to right with probability 1/2, and has a patch erased to 0, which
// is the mean: a function of (seed, e, i) alone. Then a micro-batch may be mixed, which makes
// probabilities of its targets: a function of (seed, its number) and its images.
class ImageDataset : public Dataset {
 public:
  // Throws ConfigError for options out of range, or a mean or deviation without a value a channel.
  ImageDataset(ImageRecords records, ImageOptions options);

  int64_t size() const override { return size_; }
  Batch gather(std::span<const Example> examples, const Draw& draw) const override;
  std::string unit() const override { return "images"; }
  std::string describe() const override;

  int64_t num_classes() const { return records_.num_classes; }

 private:
  struct Placement {
    int64_t down = 0;  // the source row of row 0; negative: in the padding
    int64_t right = 0;
    bool flipped = false;
  };
  Placement place(const Example& example, const Draw& draw) const;
  void erase(const Example& example, const Draw& draw, float* image) const;
  void write_image(const uint8_t* pixels, const Placement& placement, float* into) const;

  ImageRecords records_;
  ImageOptions options_;
  int64_t size_;
  std::vector<int64_t> run_begins_;  // index of each run's first record
  std::vector<float> scale_;         // [C]: value · scale + shift is the normalised value
  std::vector<float> shift_;         // [C]: also what a black pixel becomes
};

}  // namespace outstep::data
