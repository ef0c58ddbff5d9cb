#include "outstep/nn/models.h"

#include <nlohmann/json.hpp>

#include "outstep/nn/gpt2.h"
#include "outstep/nn/mlp.h"
#include "outstep/nn/resnet.h"
#include "outstep/nn/revvit.h"
#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

using ::testing::HasSubstr;

const ModelFacts kImages = {
    .source = "data \"cifar10\"", .num_classes = 10, .input_shape = {3, 32, 32}};
const ModelFacts kText = {.source = "data \"text\"", .vocab_size = 256, .context = 32};

std::unique_ptr<Model> make(const std::string& keys, const ModelFacts& facts) {
  auto settings = io::Settings::from_text("[model]\n" + keys, "my.toml");
  auto model = make_model(settings.section("model"), facts);
  settings.require_all_used();
  return model;
}

TEST(Models, MakesEveryName) {
  for (const std::string& name : model_names()) {
    const bool is_text = name == "gpt2" || name == "revgpt";
    const auto model = make("name = \"" + name + "\"\n", is_text ? kText : kImages);
    const at::Tensor input = model->example_input(2);
    EXPECT_EQ(input.size(0), 2);
    EXPECT_EQ(input.dim(), is_text ? 2 : 4);
  }
}

TEST(Models, TheDataNamesTheDefault) {
  EXPECT_EQ(make("n_layer = 1\n", kText)->family(), "gpt2");
  EXPECT_EQ(make("", kImages)->family(), "resnet");
}

TEST(Models, RefusesUnknownNamesAndKeys) {
  EXPECT_THAT(text_of<ConfigError>([] { make("name = \"gtp2\"\n", kText); }), HasSubstr("gpt2"));
  EXPECT_THAT(text_of<ConfigError>([] { make("name = \"mlp\"\nn_layer = 3\n", kImages); }),
              HasSubstr("n_layer"));
}

TEST(Models, EveryConfigMakesTheSameModelAgain) {
  for (const char* keys : {"name = \"gpt2\"\nn_layer = 1\nn_embd = 24\n",
                           "name = \"resnet34\"\nwidth = 4\n", "name = \"vgg11\"\nwidth = 4\n",
                           "name = \"revnet18\"\nwidth = 4\n", "name = \"revnet\"\nwidth = 4\n",
                           "name = \"revvit\"\nn_layer = 1\nn_inner = 7\npool = \"token\"\n",
                           "name = \"mlp\"\nhidden_sizes = [8, 9]\nactivation = \"tanh\"\n"}) {
    const auto model =
        make(keys, std::string(keys).find("gpt2") != std::string::npos ? kText : kImages);
    const auto again = make_model(model->config(), "config.json");
    EXPECT_EQ(again->config(), model->config());
    EXPECT_EQ(again->num_parameters(), model->num_parameters());
  }
  EXPECT_THAT(text_of<DataError>([] { make_model(nlohmann::ordered_json::parse("{}"), "c.json"); }),
              HasSubstr("c.json: \"model_type\" is \"\", expected \"gpt2\""));
}

// A stored model and data that it was not trained on.
TEST(Models, RefusesDataThatItCannotTake) {
  const auto complaint = [](const Model& model, const ModelFacts& facts) {
    return text_of<ConfigError>(
        [&] { model.require_takes(facts, [](const std::string&) { return "runs/a"; }); });
  };
  const Gpt2 gpt2({.vocab_size = 256, .n_positions = 32, .n_layer = 1});
  const ResNet resnet({.width = 4, .num_classes = 10});
  const Mlp mlp({.input_shape = {3, 32, 32}, .num_classes = 10});
  const OriginOf origin = [](const std::string&) { return "runs/a"; };
  gpt2.require_takes(kText, origin);
  resnet.require_takes(kImages, origin);
  mlp.require_takes(kImages, origin);

  EXPECT_EQ(complaint(gpt2, {.source = "data \"tokens\"", .vocab_size = 50257}),
            "runs/a: model.vocab_size = 256 is smaller than the 50257 tokens of data \"tokens\"");
  EXPECT_THAT(complaint(gpt2, kImages), HasSubstr("model \"gpt2\" reads tokens"));
  const ModelFacts cifar100 = {
      .source = "data \"cifar100\"", .num_classes = 100, .input_shape = {3, 32, 32}};
  for (const Model* model : std::initializer_list<const Model*>{&resnet, &mlp}) {
    EXPECT_EQ(complaint(*model, cifar100),
              "runs/a: model.num_classes = 10 is smaller than the 100 classes of data "
              "\"cifar100\"");
    EXPECT_THAT(complaint(*model, kText), HasSubstr("data \"text\""));
  }
  const ModelFacts mnist = {
      .source = "data \"mnist\"", .num_classes = 10, .input_shape = {1, 28, 28}};
  EXPECT_EQ(complaint(resnet, mnist),
            "runs/a: model.in_channels = 3, but the images of data \"mnist\" have 1");
  EXPECT_EQ(complaint(mlp, mnist),
            "runs/a: model.input_shape holds 3072 numbers, but an example of data \"mnist\" holds "
            "784");
}

// The loss of a model at parameters moved along a direction.
struct Direction {
  explicit Direction(Model& of) : model(of), params(of, 1) {
    for (Parameter* parameter : params.parameters()) {
      values.push_back(parameter->tensor.detach());
      tangents.push_back(at::empty(parameter->shape));
      fill_normal(tangents.back(), 0, 0.1,
                  {.seed = tangents.size(), .purpose = purpose("test.tangent")});
    }
  }
  // place(value, tangent) becomes the parameter.
  at::Tensor loss_with(
      at::ScalarType type,
      const std::function<at::Tensor(const at::Tensor& value, const at::Tensor& tangent)>& place) {
    for (size_t i = 0; i < values.size(); ++i) {
      params.parameters()[i]->tensor = place(values[i].to(type), tangents[i].to(type));
    }
    for (const auto& block : model.blocks) {
      for (Buffer* buffer : block->buffers()) buffer->tensor = buffer->tensor.to(type);
    }
    at::Tensor input = model.example_input(2);
    if (input.is_floating_point()) input = input.to(type);
    if (model.prefers_channels_last()) input = input.contiguous(at::MemoryFormat::ChannelsLast);
    ForwardContext context{.training = true};
    return model.loss(model.forward(input, context), model.example_target(2)).loss;
  }

  Model& model;
  FlatParams params;
  std::vector<at::Tensor> values, tangents;
};

// Sizes that the fused kernels take, so that they have to give way to the plain ones.
TEST(Models, DifferentiateForwards) {
  const at::NoGradGuard no_grad;
  Gpt2 gpt2({.vocab_size = 31, .n_positions = 16, .n_embd = 32, .n_layer = 2, .n_head = 2});
  Mlp mlp({.input_shape = {2, 3}, .hidden_sizes = {16}, .num_classes = 4, .activation = "gelu"});
  ResNet resnet({.stem = "cifar", .width = 16, .num_classes = 4, .image_size = 16});
  RevVit revvit({.layers = {.n_embd = 32, .n_layer = 2, .n_head = 2}, .num_classes = 4});
  for (Model* model : std::initializer_list<Model*>{&gpt2, &mlp, &resnet, &revvit}) {
    SCOPED_TRACE(model->family());
    Direction direction(*model);
    constexpr double kStep = 1e-6;
    const auto loss_at = [&](double step) {
      return direction
          .loss_with(at::kDouble,
                     [&](const at::Tensor& v, const at::Tensor& t) { return v.add(t, step); })
          .item<double>();
    };
    const double expected = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
      const DualLevel level;
      const at::Tensor loss = direction.loss_with(
          type, [&](const at::Tensor& v, const at::Tensor& t) { return level.dual(v, t); });
      const at::Tensor found = level.tangent_of(loss);
      ASSERT_TRUE(found.defined());
      EXPECT_NEAR(found.item<double>() / expected, 1, type == at::kFloat ? 1e-3 : 1e-6);
    }
  }
}

TEST(Models, LabelSmoothingIsInTheLossButNotInThePlainOne) {
  const auto model = make("name = \"mlp\"\nlabel_smoothing = 0.2\n", kImages);
  const at::Tensor logits = at::tensor({2.f, 0.f, 0.f, 1.f}).view({2, 2});
  const at::Tensor targets = at::tensor({0, 1}, at::kLong);
  const at::Tensor log_p = logits.log_softmax(1);
  const at::Tensor plain = -log_p.gather(1, targets.view({2, 1})).mean();
  const at::Tensor smooth = 0.8 * plain - 0.2 * log_p.mean();
  EXPECT_NEAR(model->plain_loss(logits, targets).loss.item<double>(), plain.item<double>(), 1e-6);
  EXPECT_NEAR(model->loss(logits, targets).loss.item<double>(), smooth.item<double>(), 1e-6);
  EXPECT_EQ(model->loss(logits, targets).num_units, 2);
  const LossValue of_probabilities = model->loss(logits, at::one_hot(targets, 2).to(at::kDouble));
  EXPECT_NEAR(of_probabilities.loss.item<double>(), smooth.item<double>(), 1e-6);
  EXPECT_EQ(of_probabilities.num_units, 2);
}

TEST(Models, CountsHits) {
  const at::Tensor logits = at::tensor({1.f, 2.f, 5.f, 1.f, 0.f, 3.f}).view({1, 3, 2});
  EXPECT_EQ(count_correct(logits, at::tensor({1, 1, 1}, at::kLong).view({1, 3})), 2);
}

TEST(Mlp, TrainsOnItsFlattenedInput) {
  for (const char* activation : {"relu", "gelu", "tanh"}) {
    Mlp model(
        {.input_shape = {2, 3}, .hidden_sizes = {5}, .num_classes = 4, .activation = activation});
    EXPECT_EQ(model.num_parameters(), 6 * 5 + 5 + 5 * 4 + 4);
    const FlatParams params(model, 1);
    ForwardContext context{.training = true};
    const at::Tensor logits = model.forward(model.example_input(8), context);
    EXPECT_EQ(logits.sizes(), (std::vector<int64_t>{8, 4}));
    model.loss(logits, model.example_target(8)).loss.backward();
    params.check_gradients_in_place();
    EXPECT_GT(params.gradients().abs().max().item<double>(), 0);
  }
}

TEST(Mlp, RefusesImpossibleSettings) {
  EXPECT_THAT(
      text_of<ConfigError>([] { make("name = \"mlp\"\nnum_classes = 3\n", kImages); }),
      HasSubstr("model.num_classes = 3 is smaller than the 10 classes of data \"cifar10\""));
  EXPECT_THAT(
      text_of<ConfigError>([] { make("name = \"mlp\"\ninput_shape = [5]\n", kImages); }),
      HasSubstr(
          "model.input_shape holds 5 numbers, but an example of data \"cifar10\" holds 3072"));
  EXPECT_THAT(text_of<ConfigError>([] { make("name = \"mlp\"\n", kText); }),
              HasSubstr("model \"mlp\" does not read tokens, as data \"text\" gives them"));
}

}  // namespace
}  // namespace outstep::nn
