#pragma once

#include <vector>

#include "outstep/optim/elementwise.h"

namespace outstep::optim {

// Stochastic gradient descent as torch.optim.SGD (without dampening):
//
//   g ← scale · g + weight_decay · p         weight decay where the segment decays
//   b ← momentum · b + g                     from b = 0
//   p ← p − lr · (nesterov ? g + momentum · b : b)
//
// Without momentum there is no state and b is g. One fused pass; arithmetic in float32, its numbers
// worked out in double and rounded once. The bits do not depend on the processor, the number of
// threads or how ranges are cut.
struct SgdOptions {
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 0;
};

class Sgd : public ElementwiseOptimizer {
 public:
  Sgd(SgdOptions options, std::vector<Segment> segments, Kernels kernels = best_kernels());

 protected:
  Rule rule(double gradient_scale, double lr, int64_t step) const override;

 private:
  SgdOptions options_;
};

}  // namespace outstep::optim
