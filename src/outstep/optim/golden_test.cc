// Optimizers against PyTorch's: tests/golden/make_optim_golden.py writes what is compared here, and
// tells what is in the file.

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>

#include "outstep/io/safetensors.h"
#include "outstep/optim/adamw.h"
#include "outstep/optim/norm.h"
#include "outstep/optim/sgd.h"

namespace outstep::optim {
namespace {

// Largest difference of a parameter after eight updates. The parameters are about 1 and the updates
// about 0.1: a few units in the last place of float32, since torch rounds in another order.
constexpr double kTolerance = 1e-6;

const std::vector<Segment> kSegments = {{{0, 24}, true}, {{24, 40}, false}};

std::unique_ptr<Optimizer> make(const std::string& name) {
  if (name == "adamw") {
    return std::make_unique<Adamw>(AdamwOptions{.beta1 = 0.9, .beta2 = 0.95, .weight_decay = 0.1},
                                   kSegments);
  }
  const SgdOptions options{
      .momentum = name == "sgd" ? 0 : 0.9, .nesterov = name == "nesterov", .weight_decay = 0.1};
  return std::make_unique<Sgd>(options, kSegments);
}

class Golden : public testing::TestWithParam<std::tuple<std::string, bool>> {};

TEST_P(Golden, FollowsTorch) {
  const auto& [name, clips] = GetParam();
  const io::Safetensors file(std::filesystem::path(__FILE__).parent_path() /
                             "../../../tests/golden/optim.safetensors");
  const at::Tensor expected = file.tensor(name + (clips ? "_clipped" : ""));
  const at::Tensor rates = file.tensor("lr"), norms = file.tensor("norms");
  const auto optimizer = make(name);
  at::Tensor params = file.tensor("params").clone();
  State state = optimizer->make_state({0, params.numel()});
  for (int64_t step = 0; step < expected.size(0); ++step) {
    const at::Tensor gradient = file.tensor("gradients")[step].clone();
    const double norm = std::sqrt(squared_norm(gradient).to_double());
    EXPECT_NEAR(norm / norms[step].item<double>(), 1, 1e-6);
    optimizer->update({.gradient = gradient,
                       .gradient_scale = clip_factor(norm, clips ? 1 : 0),
                       .lr = rates[step].item<double>(),
                       .params_in = params,
                       .params_out = params,
                       .state_in = &state,
                       .state_out = &state});
    EXPECT_LT((params - expected[step]).abs().max().item<double>(), kTolerance) << "step " << step;
  }
}

INSTANTIATE_TEST_SUITE_P(Optim, Golden,
                         testing::Combine(testing::Values("sgd", "momentum", "nesterov", "adamw"),
                                          testing::Bool()));

}  // namespace
}  // namespace outstep::optim
