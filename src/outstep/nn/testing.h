#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "outstep/base/errors.h"
#include "outstep/base/torch.h"
#include "outstep/nn/flat_params.h"
#include "outstep/nn/model.h"

// What the tests of this room share.

namespace outstep::nn {

// The text of the error that body throws; fails the test if it throws none of that kind.
template <typename Error>
std::string text_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing of the expected kind was thrown";
  return {};
}

inline bool bits_equal(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.dtype() == b.dtype() && a.equal(b);
}

// The largest difference of two tensors, relative to the largest element of the second.
inline double relative_difference(const at::Tensor& found, const at::Tensor& expected) {
  const double scale = expected.abs().max().item<double>();
  const double difference = (found - expected).abs().max().item<double>();
  return scale > 0 ? difference / scale : difference;
}

// While it lives, operators of duals made by it carry tangents along: forward-mode differentiation.
class DualLevel {
 public:
  DualLevel() : level_(torch::autograd::forward_ad::enter_dual_level()) {}
  ~DualLevel() { torch::autograd::forward_ad::exit_dual_level(level_); }
  DualLevel(const DualLevel&) = delete;
  DualLevel& operator=(const DualLevel&) = delete;

  at::Tensor dual(const at::Tensor& value, const at::Tensor& tangent) const {
    return at::_make_dual(value, tangent, static_cast<int64_t>(level_));
  }
  // Undefined if nothing that value depends on has one.
  at::Tensor tangent_of(const at::Tensor& value) const {
    return std::get<1>(at::_unpack_dual(value, static_cast<int64_t>(level_)));
  }

 private:
  uint64_t level_;
};

inline Parameter& find_parameter(const FlatParams& params, const std::string& name) {
  for (Parameter* parameter : params.parameters()) {
    if (parameter->name == name) return *parameter;
  }
  throw InternalError("no parameter " + name);
}

}  // namespace outstep::nn
