#include <cmath>

#include "outstep/nn/block.h"

namespace outstep::nn::init {
namespace {

// Of a weight [out, in, …]: how many inputs one output sees.
int64_t fan_in(const at::Tensor& weight) { return weight.numel() / weight.size(0); }

// Of a weight [out, in, kh, kw]: how many outputs one input reaches.
int64_t fan_out(const at::Tensor& weight) { return weight.numel() / weight.size(1); }

}  // namespace

Init zeros() { return constant(0); }
Init ones() { return constant(1); }

Init constant(double value) {
  return [value](at::Tensor values, RngKey) { values.fill_(value); };
}

Init normal(double deviation) {
  return [deviation](at::Tensor values, RngKey key) { fill_normal(values, 0, deviation, key); };
}

Init uniform(double bound) {
  return [bound](at::Tensor values, RngKey key) { fill_uniform(values, -bound, bound, key); };
}

Init kaiming_normal_fan_out() {
  return [](at::Tensor values, RngKey key) {
    fill_normal(values, 0, std::sqrt(2.0 / static_cast<double>(fan_out(values))), key);
  };
}

Init kaiming_uniform_fan_in() {
  return [](at::Tensor values, RngKey key) {
    const double bound = 1.0 / std::sqrt(static_cast<double>(fan_in(values)));
    fill_uniform(values, -bound, bound, key);
  };
}

}  // namespace outstep::nn::init
