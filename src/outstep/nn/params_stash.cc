#include "outstep/nn/params_stash.h"

#include <utility>

#include "outstep/base/errors.h"

namespace outstep::nn {

ParamsStash::ParamsStash(const FlatParams& params) : ParamsStash(params, params.values().clone()) {}

ParamsStash::ParamsStash(const FlatParams& params, const at::Tensor& values)
    : values_(values), version_(params.version()) {
  check(values_.sizes() == params.values().sizes(), "a stash is as long as its parameters");
  for (size_t i = 0; i < params.entries().size(); ++i) {
    at::Tensor leaf = piece_of(values_, params.entries()[i]);
    leaf.set_requires_grad(true);
    gradients_.push_back(params.parameters()[i]->tensor.grad());
    leaf.mutable_grad() = gradients_.back();
    leaves_.push_back(std::move(leaf));
  }
}

void ParamsStash::check_gradients_in_place() const {
  for (size_t i = 0; i < leaves_.size(); ++i) {
    const at::Tensor& gradient = leaves_[i].grad();
    check(gradient.defined() && gradient.const_data_ptr() == gradients_[i].const_data_ptr(),
          "gradients at a stash stay in the flat gradient");
  }
}

UseStash::UseStash(FlatParams& params, ParamsStash* stash) : params_(params), stash_(stash) {
  swap();
}

UseStash::~UseStash() { swap(); }

void UseStash::swap() {
  if (!stash_) return;
  for (size_t i = 0; i < stash_->leaves_.size(); ++i) {
    std::swap(params_.parameters()[i]->tensor, stash_->leaves_[i]);
  }
}

}  // namespace outstep::nn
