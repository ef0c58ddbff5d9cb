#include "outstep/nn/vgg.h"

#include <nlohmann/json.hpp>

#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

using ::testing::HasSubstr;

VggOptions tiny(int depth) { return {.depth = depth, .width = 4, .num_classes = 7}; }

at::Tensor images_of(const Model& model, int64_t batch) {
  return model.example_input(batch).contiguous(at::MemoryFormat::ChannelsLast);
}

// As used in WASH's and PAPA's experiments.
TEST(Vgg, HasTheParameterCountsOfThePapers) {
  EXPECT_EQ(Vgg({.depth = 16, .num_classes = 100}).num_parameters(), 14'774'436);
  EXPECT_EQ(Vgg({.depth = 11, .num_classes = 10}).num_parameters(), 9'231'114);
}

TEST(Vgg, HasTorchvisionsNamesABlockAConvolution) {
  Vgg model(tiny(16));
  const FlatParams params(model, 1);
  EXPECT_EQ(model.blocks.size(), 14u);
  EXPECT_EQ(model.blocks[1]->name(), "features.3");
  EXPECT_EQ(model.blocks[2]->name(), "features.7");
  EXPECT_EQ(model.blocks[12]->name(), "features.40");
  EXPECT_EQ(find_parameter(params, "features.40.weight").shape,
            (std::vector<int64_t>{32, 32, 3, 3}));
  EXPECT_EQ(find_parameter(params, "features.41.bias").shape, (std::vector<int64_t>{32}));
  EXPECT_EQ(find_parameter(params, "classifier.weight").shape, (std::vector<int64_t>{7, 32}));
  EXPECT_EQ(params.buffer_entries()[1].name, "features.1.running_var");
  EXPECT_EQ(Vgg(tiny(11)).blocks.size(), 9u);
}

// The same network written down with torch's operators, and its gradients by autograd.
TEST(Vgg, IsTorchsComposition) {
  at::set_num_threads(1);
  for (const int depth : {11, 16}) {
    Vgg model(tiny(depth));
    const FlatParams params(model, 1);
    const at::Tensor images = images_of(model, 4), targets = model.example_target(4);
    ForwardContext context{.training = true, .moves_statistics = false};
    const at::Tensor logits = model.forward(images, context);
    model.loss(logits, targets).loss.backward();

    std::map<std::string, at::Tensor> leaves;
    for (const Parameter* parameter : params.parameters()) {
      leaves[parameter->name] = parameter->tensor.detach().clone().requires_grad_();
    }
    const std::string layers = depth == 11 ? "CMCMCCMCCMCCM" : "CCMCCMCCCMCCCMCCCM";
    at::Tensor x = images;
    int number = 0;
    for (const char layer : layers) {
      if (layer == 'M') {
        x = at::max_pool2d(x, 2, 2);
        ++number;
        continue;
      }
      const std::string conv = fmt::format("features.{}", number),
                        norm = fmt::format("features.{}", number + 1);
      x = at::conv2d(x, leaves.at(conv + ".weight"), leaves.at(conv + ".bias"), 1, 1);
      x = at::relu(at::batch_norm(x, leaves.at(norm + ".weight"), leaves.at(norm + ".bias"), {}, {},
                                  true, 0.1, 1e-5, false));
      number += 3;
    }
    const at::Tensor expected =
        at::linear(x.flatten(1), leaves.at("classifier.weight"), leaves.at("classifier.bias"));
    EXPECT_LT(relative_difference(logits.detach(), expected.detach()), 1e-4);
    at::cross_entropy_loss(expected, targets).backward();
    const double scale = params.gradients().abs().max().item<double>();
    for (const Parameter* parameter : params.parameters()) {
      const at::Tensor difference = parameter->tensor.grad() - leaves.at(parameter->name).grad();
      EXPECT_LT(difference.abs().max().item<double>() / scale, 1e-3) << parameter->name;
    }
  }
}

TEST(Vgg, AStepAgainstTheGradientLowersTheLoss) {
  for (const int depth : {11, 16}) {
    Vgg model(tiny(depth));
    FlatParams params(model, 1);
    const at::Tensor before = params.buffers().clone();
    at::Tensor images = images_of(model, 8);
    fill_normal(images, 0, 1, {.seed = 1, .purpose = purpose("test.images")});
    const at::Tensor targets = model.example_target(8);
    const auto loss = [&] {
      ForwardContext context{.training = true};
      const at::Tensor logits = model.forward(images, context);
      EXPECT_EQ(logits.sizes(), (std::vector<int64_t>{8, 7}));
      return model.loss(logits, targets).loss;
    };
    const at::Tensor first = loss();
    first.backward();
    params.check_gradients_in_place();
    EXPECT_FALSE(bits_equal(params.buffers(), before));
    const at::NoGradGuard no_grad;
    params.values().sub_(params.gradients(), 1e-3);
    EXPECT_LT(loss().item<double>(), first.item<double>());
  }
}

TEST(Vgg, LargerImagesAreAveraged) {
  Vgg model({.depth = 11, .width = 4, .image_size = 96});
  const FlatParams params(model, 1);
  const at::NoGradGuard no_grad;
  ForwardContext context;
  EXPECT_EQ(model.forward(images_of(model, 2), context).sizes(), (std::vector<int64_t>{2, 1000}));
}

TEST(Vgg, ReadsARecipeAndRefusesSmallImages) {
  const auto read = [](const std::string& keys, const ModelFacts& facts) {
    auto settings = io::Settings::from_text("[model]\n" + keys, "my.toml");
    io::Section section = settings.section("model");
    return VggOptions::read(section, 11, facts);
  };
  const auto options = read("width = 16\n", {.num_classes = 100, .input_shape = {3, 32, 32}});
  EXPECT_EQ(options.depth, 11);
  EXPECT_EQ(options.width, 16);
  EXPECT_EQ(options.num_classes, 100);
  EXPECT_THAT(text_of<ConfigError>([&] {
                read("name = \"vgg11\"\n",
                     {.source = "data \"mnist\"", .num_classes = 10, .input_shape = {1, 28, 28}});
              }),
              HasSubstr("my.toml:2:1: model \"vgg11\" halves images 5 times and so takes 32×32 or "
                        "more, but those of data \"mnist\" are 28×28"));
  EXPECT_THAT(text_of<ConfigError>([&] {
                read("num_classes = 3\n", {.num_classes = 10, .input_shape = {3, 32, 32}});
              }),
              HasSubstr("model.num_classes = 3 is smaller than the 10 classes"));
}

TEST(Vgg, ConfigGoesThereAndBack) {
  for (const int depth : {11, 16}) {
    const auto config = Vgg(tiny(depth)).config();
    EXPECT_EQ(Vgg(VggOptions::from_config(config, "config.json")).config(), config);
    auto wrong = config;
    wrong["depth"] = 13;
    EXPECT_EQ(text_of<DataError>([&] { VggOptions::from_config(wrong, "c.json"); }),
              "c.json: \"depth\" is 13, expected 11 or 16");
  }
}

}  // namespace
}  // namespace outstep::nn
