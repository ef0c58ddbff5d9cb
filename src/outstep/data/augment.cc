#include "outstep/data/augment.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "outstep/base/errors.h"

namespace outstep::data {
namespace {

constexpr double kSmallestErased = 0.02, kLargestErased = 0.33;  // of the image's area
constexpr double kFlattest = 0.3, kSteepest = 3.3;               // height by width
constexpr int kAttempts = 10;

double draw_above_zero(CounterRng& rng) { return 1 - rng.uniform(); }  // (0, 1]

double draw_between(double low, double high, CounterRng& rng) {
  return low + (high - low) * rng.uniform();
}

// The logarithm of a number of Gamma(shape, 1): of a small shape most numbers are too small for a
// double. Marsaglia & Tsang 2000, at shape + 1, and their step back from there.
double draw_log_gamma(double shape, CounterRng& rng) {
  const double d = shape + 1 - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double radius = std::sqrt(-2 * std::log(draw_above_zero(rng)));
    const double normal = radius * std::cos(2 * std::numbers::pi * rng.uniform());
    const double root = 1 + c * normal;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (std::log(draw_above_zero(rng)) >= normal * normal / 2 + d - d * v + d * std::log(v)) {
      continue;
    }
    return std::log(d * v) + std::log(draw_above_zero(rng)) / shape;
  }
}

// Along one side: a range of about `length` pixels around a pixel drawn, as much of it as there is.
struct Range {
  int64_t begin, end;
};
Range draw_range(int64_t size, int64_t length, CounterRng& rng) {
  const auto centre = static_cast<int64_t>(rng.below(static_cast<uint64_t>(size)));
  return {std::max<int64_t>(centre - length / 2, 0), std::min(centre + length / 2, size)};
}

Patch draw_cut(ImageSize size, double share_cut, CounterRng& rng) {
  const double ratio = std::sqrt(share_cut);
  const auto length = [&](int64_t side) {
    return static_cast<int64_t>(static_cast<double>(side) * ratio);
  };
  const Range rows = draw_range(size.height, length(size.height), rng);
  const Range columns = draw_range(size.width, length(size.width), rng);
  return {rows.begin, columns.begin, rows.end - rows.begin, columns.end - columns.begin};
}

// Calls body(image, partner) for every pair. The one in the middle of an odd number is its own
// partner, and stays as it is.
template <typename Body>
void for_pairs(const at::Tensor& images, Body body) {
  const int64_t num = images.size(0), values = images[0].numel();
  auto* data = images.mutable_data_ptr<float>();
  for (int64_t i = 0; i < num / 2; ++i) body(data + i * values, data + (num - 1 - i) * values);
}

void add_pairs(const at::Tensor& images, double share) {
  const auto own = static_cast<float>(share), other = static_cast<float>(1 - share);
  const int64_t values = images[0].numel();
  for_pairs(images, [&](float* image, float* partner) {
    for (int64_t i = 0; i < values; ++i) {
      const float x = image[i], y = partner[i];
      image[i] = own * x + other * y;
      partner[i] = own * y + other * x;
    }
  });
}

// What one gets is what the other gives: the patches change places.
void swap_patches(const at::Tensor& images, const Patch& patch) {
  const int64_t channels = images.size(1), height = images.size(2), width = images.size(3);
  for_pairs(images, [&](float* image, float* partner) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t y = patch.top; y < patch.top + patch.height; ++y) {
        const int64_t begin = (c * height + y) * width + patch.left;
        std::swap_ranges(image + begin, image + begin + patch.width, partner + begin);
      }
    }
  });
}

}  // namespace

double draw_beta(double alpha, CounterRng& rng) {
  const double first = draw_log_gamma(alpha, rng), second = draw_log_gamma(alpha, rng);
  return 1 / (1 + std::exp(second - first));
}

std::optional<Patch> draw_erased(ImageSize size, double probability, CounterRng& rng) {
  if (rng.uniform() >= probability) return std::nullopt;
  const auto area = static_cast<double>(size.height * size.width);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const double erased = area * draw_between(kSmallestErased, kLargestErased, rng);
    const double aspect = std::exp(draw_between(std::log(kFlattest), std::log(kSteepest), rng));
    const auto height = static_cast<int64_t>(std::nearbyint(std::sqrt(erased * aspect)));
    const auto width = static_cast<int64_t>(std::nearbyint(std::sqrt(erased / aspect)));
    if (height >= size.height || width >= size.width) continue;
    const auto place = [&](int64_t room) {
      return static_cast<int64_t>(rng.below(static_cast<uint64_t>(room) + 1));
    };
    const int64_t top = place(size.height - height), left = place(size.width - width);
    return Patch{.top = top, .left = left, .height = height, .width = width};
  }
  return std::nullopt;
}

void mix(Batch& batch, const MixOptions& options, RngKey key) {
  check(options.mixes(), "a way to mix");
  CounterRng rng(key);
  const bool both = options.mixup > 0 && options.cutmix > 0;
  const bool cuts = both ? rng.below(2) == 1 : options.cutmix > 0;
  double share = draw_beta(cuts ? options.cutmix : options.mixup, rng);  // λ
  if (cuts) {
    const ImageSize size{.height = batch.inputs.size(2), .width = batch.inputs.size(3)};
    const Patch cut = draw_cut(size, 1 - share, rng);
    swap_patches(batch.inputs, cut);
    share = 1 - static_cast<double>(cut.height * cut.width) /
                    static_cast<double>(size.height * size.width);
  } else {
    add_pairs(batch.inputs, share);
  }
  const at::Tensor classes = at::one_hot(batch.targets, options.num_classes).to(at::kDouble);
  batch.targets = classes.mul(share).add_(classes.flip(0), 1 - share);  // [B, num_classes]
}

}  // namespace outstep::data
