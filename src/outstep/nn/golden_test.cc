// Models against plain PyTorch: tests/golden/make_golden.py writes what is compared here, and tells
// what is in a file.

#include <filesystem>

#include "outstep/nn/gpt2.h"
#include "outstep/nn/mlp.h"
#include "outstep/nn/resnet.h"
#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

// Largest difference, relative to the largest element of the tensor: float32 in another order of
// summation.
constexpr double kTolerance = 5e-5;
// Batch norm over the few pixels of these small images divides by small deviations, and 53 layers
// of it add up.
constexpr double kDeepTolerance = 1e-3;

io::Safetensors golden(const std::string& name) {
  const auto sources = std::filesystem::path(__FILE__).parent_path();
  return io::Safetensors(sources / "../../../tests/golden" / (name + ".safetensors"));
}

void expect_near(const at::Tensor& found, const at::Tensor& expected, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(found.sizes(), expected.sizes()) << what;
  EXPECT_LT(relative_difference(found.detach(), expected), tolerance) << what;
}

// A gradient that is 0 but for rounding (a weight whose scale the next norm undoes) is held against
// the others.
void expect_gradients_near(const FlatParams& params, const io::Safetensors& file,
                           double tolerance) {
  const double floor = 0.01 * params.gradients().abs().max().item<double>();
  for (const Parameter* parameter : params.parameters()) {
    const at::Tensor expected = file.tensor("gradient." + parameter->name);
    const double scale = std::max(floor, expected.abs().max().item<double>());
    const double difference = (parameter->tensor.grad() - expected).abs().max().item<double>();
    EXPECT_LT(difference / scale, tolerance) << parameter->name;
  }
}

void expect_golden(Model& model, const std::string& name, double tolerance,
                   at::MemoryFormat layout = at::MemoryFormat::Contiguous) {
  at::set_num_threads(1);
  const io::Safetensors file = golden(name);
  FlatParams params(model, 1);
  std::map<std::string, at::Tensor> weights;
  for (const auto& [own, tensor] : params.named_tensors()) weights[own] = file.tensor(own);
  params.load(weights, name);

  ForwardContext context{.training = true};
  at::Tensor input = file.tensor("input");
  if (layout != at::MemoryFormat::Contiguous) input = input.contiguous(layout);
  const at::Tensor logits = model.forward(input, context);
  expect_near(logits, file.tensor("logits"), tolerance, "logits");
  model.label_smoothing = 0.1;
  expect_near(model.loss(logits, file.tensor("target")).loss, file.tensor("loss_smoothed"),
              tolerance, "smoothed loss");
  const LossValue value = model.plain_loss(logits, file.tensor("target"));
  expect_near(value.loss, file.tensor("loss"), tolerance, "loss");
  EXPECT_EQ(value.num_units, file.tensor("target").numel());

  value.loss.backward();
  params.check_gradients_in_place();
  expect_gradients_near(params, file, tolerance);
  const auto named = params.named_tensors();
  for (size_t i = params.entries().size(); i < named.size(); ++i) {
    expect_near(named[i].second, file.tensor("after." + named[i].first), tolerance, named[i].first);
  }
}

TEST(Golden, Gpt2) {
  for (const bool tied : {true, false}) {
    Gpt2 model({.vocab_size = 19,
                .n_positions = 12,
                .n_embd = 16,
                .n_layer = 1,
                .n_head = tied ? 2 : 1,
                .tie_word_embeddings = tied});
    expect_golden(model, tied ? "gpt2_tied" : "gpt2_untied", kTolerance);
  }
}

TEST(Golden, ResNet18) {
  for (const auto layout : {at::MemoryFormat::ChannelsLast, at::MemoryFormat::Contiguous}) {
    ResNet model({.depth = 18, .stem = "cifar", .width = 2, .num_classes = 5});
    expect_golden(model, "resnet18_cifar", kTolerance, layout);
  }
}

TEST(Golden, ResNet50) {
  ResNet model({.depth = 50, .width = 1, .in_channels = 1, .num_classes = 5});
  expect_golden(model, "resnet50_imagenet", kDeepTolerance, at::MemoryFormat::ChannelsLast);
}

TEST(Golden, Mlp) {
  Mlp model(
      {.input_shape = {1, 3, 4}, .hidden_sizes = {7, 9}, .num_classes = 4, .activation = "gelu"});
  expect_golden(model, "mlp", kTolerance);
}

}  // namespace
}  // namespace outstep::nn
