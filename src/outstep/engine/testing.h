#pragma once

#include <span>
#include <string>
#include <vector>

#include "outstep/base/rng.h"
#include "outstep/data/dataset.h"
#include "outstep/nn/model.h"

// What tests of all engines share.

namespace outstep::engine::testing {

constexpr int64_t kNumClasses = 5;

// Examples that are a function of their number, shaped as the model likes them.
class Examples : public data::Dataset {
 public:
  explicit Examples(const nn::Model& model)
      : input_(model.example_input(1)), target_(model.example_target(1)) {}

  int64_t size() const override { return 64; }
  data::Batch gather(std::span<const Example> examples, const Draw&) const override {
    std::vector<at::Tensor> inputs, targets;
    for (const Example& example : examples) {
      const auto number = static_cast<uint64_t>(example.index);
      at::Tensor values = at::empty(input_.sizes(), at::kFloat);
      fill_uniform(values, 0, 1, {.seed = number, .purpose = purpose("examples")});
      inputs.push_back(input_.is_floating_point() ? values : values.mul(kNumClasses).to(at::kLong));
      targets.push_back(at::full_like(target_, static_cast<int64_t>(number % kNumClasses)));
    }
    const auto count = static_cast<int64_t>(examples.size());
    return {.inputs = at::cat(inputs),
            .targets = at::cat(targets),
            .num_samples = count,
            .num_units = count * target_.numel()};
  }
  std::string unit() const override { return "samples"; }
  std::string describe() const override { return "examples"; }

 private:
  at::Tensor input_, target_;
};

}  // namespace outstep::engine::testing
