#pragma once

#include <cstdint>
#include <optional>

#include "outstep/base/rng.h"
#include "outstep/data/batch.h"

// What training may do to images beside crop and flip, by the rules of timm and torchvision, which
// PAPA's experiments use. All of it is a function of keys.

namespace outstep::data {

// Part of an image, all channels.
struct Patch {
  int64_t top = 0;
  int64_t left = 0;
  int64_t height = 0;
  int64_t width = 0;
};
struct ImageSize {
  int64_t height = 0;
  int64_t width = 0;
};

// A number of the distribution Beta(alpha, alpha), in [0, 1]. alpha is positive.
double draw_beta(double alpha, CounterRng& rng);

// The patch that random erasing (Zhong et al. 2017, as torchvision's RandomErasing) blanks: with
// the given probability one of 2 to 33 % of the image, 0.3 to 3.3 times as high as wide; none where
// ten such patches in a row are as large as the image.
std::optional<Patch> draw_erased(ImageSize size, double probability, CounterRng& rng);

struct MixOptions {
  double mixup = 0;   // alpha of Beta(alpha, alpha); 0: none
  double cutmix = 0;  // likewise
  int64_t num_classes = 0;

  bool mixes() const { return mixup > 0 || cutmix > 0; }
};

// Mixes each image of a batch with its partner, the image as far from the other end, by a share λ
// that is drawn once for all: mixup (Zhang et al. 2017) adds them, λ x + (1 - λ) x'; CutMix (Yun et
// al. 2019) puts a patch of about 1 - λ of the partner into the image, λ being corrected to what is
// left of it. With both, each is taken half of the time. Targets become probabilities [B,
// num_classes], λ of the one class and 1 - λ of the other.
void mix(Batch& batch, const MixOptions& options, RngKey key);

}  // namespace outstep::data
