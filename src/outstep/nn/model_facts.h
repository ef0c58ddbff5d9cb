#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace outstep::nn {

// What the data says about the model that reads it, so that a recipe need not repeat it. What is
// not known stays 0 or empty and must then be set in [model], or its default holds.
//
//   text    {.source = "data \"text\"", .vocab_size = 256, .context = 128}
//   images  {.source = "data \"cifar10\"", .num_classes = 10, .input_shape = {3, 32, 32}}
struct ModelFacts {
  std::string source = "the data";  // as errors name it
  int64_t vocab_size = 0;           // of text: tokens are below it
  int64_t context = 0;              // of text: tokens in one example
  int64_t num_classes = 0;          // of anything else: targets are below it
  std::vector<int64_t> input_shape =
      {};  // likewise: of one example; images are [channels, height, width]
};

// Where a key of [model] was set, to begin an error with: of a recipe "my.toml:2:1", of a stored
// model its folder.
using OriginOf = std::function<std::string(const std::string& key)>;

}  // namespace outstep::nn
