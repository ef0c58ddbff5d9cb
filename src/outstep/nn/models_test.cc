#include "outstep/nn/models.h"

#include <nlohmann/json.hpp>

#include "outstep/nn/mlp.h"
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
    const bool is_text = name == "gpt2";
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
  for (const char* keys :
       {"name = \"gpt2\"\nn_layer = 1\nn_embd = 24\n", "name = \"resnet34\"\nwidth = 4\n",
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
