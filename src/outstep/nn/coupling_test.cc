#include "outstep/nn/coupling.h"

#include "outstep/nn/revnet.h"
#include "outstep/nn/testing.h"

// The specification's test 4: what a coupling does can be undone, block by block and along a chain,
// and its gradients are autograd's.

namespace outstep::nn {
namespace {

// Two streams of 16 channels, large enough for the fused batch norm.
RevNetOptions small(const std::string& kind) {
  return {.blocks = {"stem", "rev", "rev", "rev", "rev", "rev", "head"},
          .kind = kind,
          .stem = "cifar",
          .width = 16,
          .num_classes = 7,
          .image_size = 8};
}

struct Chain {
  Chain(const std::string& kind, at::ScalarType type)
      : model(small(kind)), params(model, 1, {.dtype = type}) {
    ForwardContext context{.training = true};
    const at::NoGradGuard no_grad;
    const at::Tensor images =
        model.example_input(4).to(type).contiguous(at::MemoryFormat::ChannelsLast);
    input = model.blocks[0]->forward({.x = images}, context);
  }
  Coupling& coupling(size_t i) { return dynamic_cast<Coupling&>(*model.blocks[1 + i]); }
  static constexpr size_t kLength = 5;

  RevNet model;
  FlatParams params;
  Streams input;
};

struct Case {
  std::string kind;
  at::ScalarType type;
  double tolerance;  // of one block's round trip, relative
};

class Coupled : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Kinds, Coupled,
    ::testing::Values(Case{"basic", at::kDouble, 1e-15}, Case{"basic", at::kFloat, 1e-6},
                      Case{"bottleneck", at::kDouble, 1e-15}, Case{"bottleneck", at::kFloat, 1e-6}),
    [](const auto& tested) {
      return tested.param.kind + (tested.param.type == at::kDouble ? "_fp64" : "_fp32");
    });

TEST_P(Coupled, Spec4InversesUndoABlockAndAChain) {
  Chain chain(GetParam().kind, GetParam().type);
  ForwardContext context{.training = true, .moves_statistics = false};
  const at::NoGradGuard no_grad;
  std::vector<Streams> states = {chain.input};
  for (size_t i = 0; i < Chain::kLength; ++i) {
    states.push_back(chain.coupling(i).forward(states.back(), context));
    const Streams back = chain.coupling(i).inverse(states.back(), context);
    EXPECT_TRUE(bits_equal(back.x, states[i].x));  // ỹ = x exactly
    EXPECT_LT(relative_difference(back.other, states[i].other), GetParam().tolerance);
  }
  Streams back = states.back();
  for (size_t i = Chain::kLength; i-- > 0;) back = chain.coupling(i).inverse(back, context);
  EXPECT_LT(relative_difference(back.x, chain.input.x), 100 * GetParam().tolerance);
  EXPECT_LT(relative_difference(back.other, chain.input.other), 100 * GetParam().tolerance);
}

TEST_P(Coupled, Spec4ItsGradientsAreAutogradsWithOneEvaluation) {
  Chain chain(GetParam().kind, GetParam().type);
  Coupling& block = chain.coupling(0);
  ForwardContext context{.training = true, .moves_statistics = false};
  const Streams gradient{.x = chain.input.x.sin(), .other = chain.input.x.cos()};

  const Streams leaves = as_leaves(chain.input);
  const Streams output = block.forward(leaves, context);
  backward(output, gradient);
  const Streams expected = gradients_of(leaves);
  const at::Tensor expected_params = chain.params.gradients().clone();

  chain.params.zero_gradients();
  const Streams detached{.x = output.x.detach(), .other = output.other.detach()};
  const Backward found = rebuild_and_differentiate(block, detached, gradient, context);
  chain.params.check_gradients_in_place();
  EXPECT_TRUE(bits_equal(found.input.x, chain.input.x));
  EXPECT_LT(relative_difference(found.input.other, chain.input.other), GetParam().tolerance);
  EXPECT_TRUE(bits_equal(found.gradient.other, gradient.x));
  EXPECT_LT(relative_difference(found.gradient.x, expected.x), GetParam().tolerance);
  EXPECT_TRUE(bits_equal(chain.params.gradients(), expected_params));

  chain.params.zero_gradients();
  const Streams known = differentiate_coupling(block, chain.input.x, gradient, context);
  EXPECT_TRUE(bits_equal(known.x, found.gradient.x));
  EXPECT_TRUE(bits_equal(chain.params.gradients(), expected_params));

  chain.params.zero_gradients();
  const Streams plain = differentiate(block, chain.input, gradient, context);
  EXPECT_TRUE(bits_equal(plain.x, expected.x));
  EXPECT_TRUE(bits_equal(chain.params.gradients(), expected_params));
}

// Streams stay in float32, and what is computed in between in bfloat16 is the same both times.
TEST(Coupling, Spec4RoundTripsUnderAutocast) {
  for (const char* kind : {"basic", "bottleneck"}) {
    Chain chain(kind, at::kFloat);
    ForwardContext context{.training = true, .moves_statistics = false};
    const at::NoGradGuard no_grad;
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    const Streams output = chain.coupling(0).forward(chain.input, context);
    const Streams back = chain.coupling(0).inverse(output, context);
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
    EXPECT_EQ(output.x.scalar_type(), at::kFloat);
    EXPECT_LT(relative_difference(back.other, chain.input.other), 1e-6);
  }
}

TEST(Coupling, NeedsTwoStreams) {
  Chain chain("basic", at::kFloat);
  ForwardContext context{.training = true};
  EXPECT_THROW(chain.coupling(0).forward({.x = chain.input.x}, context), InternalError);
}

}  // namespace
}  // namespace outstep::nn
