#include "outstep/nn/block.h"

namespace outstep::nn {

Parameter& Block::add_parameter(const std::string& full_name, std::vector<int64_t> shape, Init init,
                                Decay decay) {
  owned_parameters_.push_back({full_name, std::move(shape), std::move(init), decay, {}});
  parameters_.push_back(&owned_parameters_.back());
  return owned_parameters_.back();
}

Buffer& Block::add_buffer(const std::string& full_name, std::vector<int64_t> shape,
                          double initial) {
  owned_buffers_.push_back({full_name, std::move(shape), initial, {}});
  buffers_.push_back(&owned_buffers_.back());
  return owned_buffers_.back();
}

}  // namespace outstep::nn
