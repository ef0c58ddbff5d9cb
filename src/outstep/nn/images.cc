#include "outstep/nn/images.h"

#include <fmt/ranges.h>

#include "outstep/base/errors.h"

namespace outstep::nn {

void require_takes_images(const std::string& model, const ImageSizes& sizes,
                          const ModelFacts& facts, const OriginOf& origin_of) {
  if (facts.vocab_size > 0) {
    throw ConfigError(
        "{}: model \"{}\" reads images, but {} gives tokens; use model \"gpt2\", or data of "
        "images",
        origin_of("name"), model, facts.source);
  }
  if (!facts.input_shape.empty() && facts.input_shape.size() != 3) {
    throw ConfigError(
        "{}: model \"{}\" reads images [channels, height, width], but an example of {} is [{}]",
        origin_of("name"), model, facts.source, fmt::join(facts.input_shape, ", "));
  }
  if (sizes.num_classes < facts.num_classes) {
    throw ConfigError("{}: model.num_classes = {} is smaller than the {} classes of {}",
                      origin_of("num_classes"), sizes.num_classes, facts.num_classes, facts.source);
  }
  if (!facts.input_shape.empty() && sizes.in_channels != facts.input_shape[0]) {
    throw ConfigError("{}: model.in_channels = {}, but the images of {} have {}",
                      origin_of("in_channels"), sizes.in_channels, facts.source,
                      facts.input_shape[0]);
  }
}

at::Tensor example_images(const std::vector<int64_t>& shape) {
  return at::arange(c10::multiply_integers(shape), at::kFloat).mul(0.7).sin().view(shape);
}

}  // namespace outstep::nn
