#include "outstep/nn/resnet.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

using ::testing::HasSubstr;

const ResNetOptions kTiny = {
    .stem = "cifar", .width = 4, .in_channels = 1, .num_classes = 7, .image_size = 16};

TEST(ResNet, HasTorchvisionsParameterCounts) {
  EXPECT_EQ(ResNet({.depth = 18}).num_parameters(), 11'689'512);
  EXPECT_EQ(ResNet({.depth = 34}).num_parameters(), 21'797'672);
  EXPECT_EQ(ResNet({.depth = 50}).num_parameters(), 25'557'032);
  EXPECT_EQ(ResNet({.depth = 18, .stem = "cifar", .num_classes = 10}).num_parameters(), 11'173'962);
  EXPECT_EQ(ResNet({.depth = 18, .stem = "cifar", .num_classes = 100}).num_parameters(),
            11'220'132);
}

TEST(ResNet, HasTorchvisionsNames) {
  ResNet model({.depth = 50, .width = 4});
  const FlatParams params(model, 1);
  EXPECT_EQ(find_parameter(params, "conv1.weight").shape, (std::vector<int64_t>{4, 3, 7, 7}));
  EXPECT_EQ(find_parameter(params, "layer1.0.downsample.0.weight").shape,
            (std::vector<int64_t>{16, 4, 1, 1}));
  EXPECT_EQ(find_parameter(params, "layer4.2.conv3.weight").shape,
            (std::vector<int64_t>{128, 32, 1, 1}));
  EXPECT_EQ(find_parameter(params, "layer4.2.bn3.bias").shape, (std::vector<int64_t>{128}));
  EXPECT_EQ(params.entries().back().name, "fc.bias");
  EXPECT_EQ(params.buffer_entries()[1].name, "bn1.running_var");
  EXPECT_EQ(model.blocks.size(), 18u);
  EXPECT_EQ(model.blocks[4]->name(), "layer2.0");
}

TEST(ResNet, InitialisesAsTorchvisionDoes) {
  ResNet model({.depth = 18, .zero_init_residual = true});
  const FlatParams params(model, 1);
  const auto deviation = [&](const std::string& name) {
    return find_parameter(params, name).tensor.detach().std().item<double>();
  };
  EXPECT_NEAR(deviation("layer3.1.conv1.weight"), std::sqrt(2.0 / (256 * 9)), 0.0005);
  EXPECT_NEAR(deviation("fc.weight"), 1 / std::sqrt(3 * 512.0), 0.0005);
  EXPECT_EQ(find_parameter(params, "layer3.1.bn1.weight").tensor.sum().item<float>(), 256.f);
  EXPECT_EQ(find_parameter(params, "layer3.1.bn2.weight").tensor.sum().item<float>(), 0.f);
}

TEST(ResNet, TrainingMovesTheRunningStatistics) {
  for (const int depth : {18, 50}) {
    ResNetOptions options = kTiny;
    options.depth = depth;
    ResNet model(options);
    const FlatParams params(model, 1);
    const at::Tensor before = params.buffers().clone();
    ForwardContext evaluation, training{.training = true};
    const at::Tensor images = model.example_input(4).contiguous(at::MemoryFormat::ChannelsLast),
                     targets = model.example_target(4);
    EXPECT_EQ(model.forward(images, evaluation).sizes(), (std::vector<int64_t>{4, 7}));
    EXPECT_TRUE(bits_equal(params.buffers(), before));
    model.loss(model.forward(images, training), targets).loss.backward();
    params.check_gradients_in_place();
    EXPECT_FALSE(bits_equal(params.buffers(), before));
    for (const Parameter* parameter : params.parameters()) {
      EXPECT_GT(parameter->tensor.grad().abs().max().item<double>(), 0) << parameter->name;
    }
  }
}

TEST(ResNet, ChannelsLastIsALayoutOnly) {
  ResNet model(kTiny);
  const FlatParams params(model, 1);
  const at::NoGradGuard no_grad;
  const at::Tensor images = model.example_input(2),
                   last = images.contiguous(at::MemoryFormat::ChannelsLast);
  EXPECT_TRUE(model.prefers_channels_last());
  for (const bool training : {false, true}) {
    ForwardContext context{.training = training};
    EXPECT_LT(relative_difference(model.forward(last, context), model.forward(images, context)),
              1e-4);
  }
}

TEST(ResNet, TheImageNetStemQuartersTheImage) {
  ResNet model({.width = 4, .image_size = 64});
  const FlatParams params(model, 1);
  ForwardContext context;
  const at::NoGradGuard no_grad;
  EXPECT_EQ(model.blocks[0]->forward(Streams{model.example_input(1)}, context).x.sizes(),
            (std::vector<int64_t>{1, 4, 16, 16}));
}

TEST(ResNet, ReadsARecipe) {
  auto settings = io::Settings::from_text("[model]\nwidth = 16\n");
  io::Section section = settings.section("model");
  const auto options =
      ResNetOptions::read(section, 34, {.num_classes = 10, .input_shape = {1, 28, 28}});
  EXPECT_EQ(options.depth, 34);
  EXPECT_EQ(options.stem, "cifar");
  EXPECT_EQ(options.width, 16);
  EXPECT_EQ(options.in_channels, 1);
  EXPECT_EQ(options.num_classes, 10);
  EXPECT_EQ(ResNetOptions::read(section, 18, {.input_shape = {3, 224, 224}}).stem, "imagenet");
}

TEST(ResNet, RefusesImpossibleSettings) {
  const auto complaint = [](const std::string& keys, const ModelFacts& facts) {
    return text_of<ConfigError>([&] {
      auto settings = io::Settings::from_text("[model]\n" + keys, "my.toml");
      io::Section section = settings.section("model");
      ResNetOptions::read(section, 18, facts);
    });
  };
  const ModelFacts cifar = {
      .source = "data \"cifar100\"", .num_classes = 100, .input_shape = {3, 32, 32}};
  EXPECT_THAT(complaint("num_classes = 10\n", cifar),
              HasSubstr("my.toml:2:1: model.num_classes = 10 is smaller than the 100 classes of "
                        "data \"cifar100\""));
  EXPECT_THAT(complaint("in_channels = 1\n", cifar),
              HasSubstr("model.in_channels = 1, but the images of data \"cifar100\" have 3"));
  EXPECT_THAT(complaint("", {.source = "data \"text\"", .vocab_size = 256}),
              HasSubstr("model \"resnet18\" reads images, but data \"text\" gives tokens"));
  EXPECT_THAT(complaint("", {.source = "data \"tensors\"", .input_shape = {20}}),
              HasSubstr("but an example of data \"tensors\" is [20]"));
  complaint("stem = \"tiny\"\n", cifar);
}

TEST(ResNet, ConfigGoesThereAndBack) {
  const auto config = ResNet(kTiny).config();
  EXPECT_EQ(ResNet(ResNetOptions::from_config(config, "config.json")).config(), config);
  auto wrong = config;
  wrong["depth"] = 19;
  EXPECT_EQ(text_of<DataError>([&] { ResNetOptions::from_config(wrong, "c.json"); }),
            "c.json: \"depth\" is 19, expected 18, 34 or 50");
  wrong = config;
  wrong["stem"] = "tiny";
  EXPECT_EQ(text_of<DataError>([&] { ResNetOptions::from_config(wrong, "c.json"); }),
            "c.json: \"stem\" is \"tiny\", expected \"imagenet\" or \"cifar\"");
}

}  // namespace
}  // namespace outstep::nn
