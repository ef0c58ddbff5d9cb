#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "outstep/base/torch.h"
#include "outstep/nn/model_facts.h"

// What models of images share.

namespace outstep::nn {

// Up to so many pixels a side the "cifar" stem is the default.
inline constexpr int64_t kLargestSmallImage = 64;

struct ImageSizes {
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
};

// Throws ConfigError unless a model of such sizes can take what the data gives; model: its name.
void require_takes_images(const std::string& model, const ImageSizes& sizes,
                          const ModelFacts& facts, const OriginOf& origin_of);

// Float32 numbers that look like no image, but are the same everywhere.
at::Tensor example_images(const std::vector<int64_t>& shape);

}  // namespace outstep::nn
