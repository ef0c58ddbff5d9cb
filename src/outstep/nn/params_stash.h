#pragma once

#include <memory>
#include <vector>

#include "outstep/nn/flat_params.h"

namespace outstep::nn {

// A copy of parameters as they were, to differentiate at later. Gradients taken at it add into the
// same flat gradient as those at the live parameters.
//
//   auto stash = std::make_shared<ParamsStash>(params);
//   … the parameters change …
//   {
//     const UseStash use(params, stash.get());
//     block.forward(input, context);          // at the copy
//   }
class ParamsStash {
 public:
  explicit ParamsStash(const FlatParams& params);
  // The same with values that were saved.
  ParamsStash(const FlatParams& params, const at::Tensor& values);

  const at::Tensor& values() const { return values_; }  // [size]
  int64_t version() const { return version_; }          // of the parameters it copies
  // Throws InternalError if autograd has replaced a gradient instead of adding into the flat one.
  void check_gradients_in_place() const;

 private:
  friend class UseStash;
  at::Tensor values_;
  int64_t version_;
  std::vector<at::Tensor> leaves_;     // views of values_, by parameter
  std::vector<at::Tensor> gradients_;  // of the flat gradient, by parameter
};

// While it lives, the blocks compute with a stash; with null nothing changes.
class UseStash {
 public:
  UseStash(FlatParams& params, ParamsStash* stash);
  ~UseStash();
  UseStash(const UseStash&) = delete;
  UseStash& operator=(const UseStash&) = delete;

 private:
  void swap();
  FlatParams& params_;
  ParamsStash* stash_;
};

}  // namespace outstep::nn
