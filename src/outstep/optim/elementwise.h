#pragma once

#include <functional>
#include <vector>

#include "outstep/optim/kernels.h"
#include "outstep/optim/optimizer.h"

namespace outstep::optim {

// What the optimizers that treat every element alike (SGD, AdamW) share: the state, the checks, and
// the walk over a range in pieces that either decay, do not, or are padding. A piece is one fused
// pass of the subclass over its vectors.
class ElementwiseOptimizer : public Optimizer {
 public:
  const std::string& name() const override { return name_; }
  State make_state(Range range, at::TensorOptions options = at::kFloat) const override;
  void update(const Update& update) const override;
  int64_t state_bytes_per_parameter() const override;

 protected:
  static constexpr int kMaxVectors = 2;

  // Pointers to one piece of each vector; state_out is null in a tentative step.
  struct Piece {
    int64_t size = 0;
    const float* gradient = nullptr;
    const float* params_in = nullptr;
    float* params_out = nullptr;
    const float* state_in[kMaxVectors] = {};
    float* state_out[kMaxVectors] = {};
    bool keeps_state = false;
    bool decays = false;
  };
  // The same piece as tensors, for other devices and float64.
  struct TensorPiece {
    at::Tensor gradient;
    at::Tensor params_in;
    at::Tensor params_out;
    std::vector<at::Tensor> state_in = {};
    std::vector<at::Tensor> state_out = {};  // empty in a tentative step
    bool decays = false;
  };
  // What an update does to each element, with its numbers worked out once.
  struct Rule {
    std::function<void(const Piece&)> on_cpu;
    std::function<void(const TensorPiece&)> by_operators;
  };

  ElementwiseOptimizer(std::string name, std::vector<std::string> vector_names,
                       std::vector<Segment> segments, Kernels kernels);

  // The rule of the update that makes `step` updates done (1 for the first).
  virtual Rule rule(double gradient_scale, double lr, int64_t step) const = 0;

  Kernels kernels() const { return kernels_; }

 private:
  void check_update(const Update& update) const;
  void update_on_cpu(const Update& update, const Rule& rule) const;
  void update_by_operators(const Update& update, const Rule& rule) const;
  // Calls visit(begin, end, segment) for the pieces of a range, in order; segment is null where
  // there is padding.
  template <typename Visit>
  void for_each_piece(Range range, const Visit& visit) const;

  std::string name_;
  std::vector<std::string> vector_names_;
  std::vector<Segment> segments_;
  Kernels kernels_;
};

}  // namespace outstep::optim
