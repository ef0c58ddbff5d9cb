#pragma once

#include <vector>

#include "outstep/optim/elementwise.h"

namespace outstep::optim {

// AdamW (Loshchilov and Hutter, 2019) as torch.optim.AdamW: decoupled weight decay, bias
// correction. At update t:
//
//   g ← scale · g
//   m ← m + (1 − β1) · (g − m)
//   v ← β2 · v + (1 − β2) · g · g
//   p ← (1 − lr · weight_decay) · p − (lr / (1 − β1^t)) · m / (√v / √(1 − β2^t) + ε)
//
// with weight decay where the segment decays. One fused pass; arithmetic in float32, its numbers
// (the corrections among them) worked out in double and rounded once. The bits do not depend on the
// processor, the number of threads or how ranges are cut. They differ from torch's by rounding:
// torch contracts some multiplications with additions.
struct AdamwOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
};

class Adamw : public ElementwiseOptimizer {
 public:
  Adamw(AdamwOptions options, std::vector<Segment> segments, Kernels kernels = best_kernels());

 protected:
  Rule rule(double gradient_scale, double lr, int64_t step) const override;

 private:
  AdamwOptions options_;
};

}  // namespace outstep::optim
