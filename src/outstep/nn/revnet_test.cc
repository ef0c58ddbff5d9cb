#include "outstep/nn/revnet.h"

#include <nlohmann/json.hpp>

#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

using ::testing::HasSubstr;

RevNetOptions sized(int depth, int64_t num_classes = 1000) {
  RevNetOptions options = RevNetOptions::of_depth(depth);
  options.num_classes = num_classes;
  return options;
}

RevNetOptions tiny(const std::string& kind) {
  RevNetOptions options{.kind = kind,
                        .stem = "cifar",
                        .width = 4,
                        .in_channels = 1,
                        .num_classes = 7,
                        .image_size = 16};
  if (kind == "bottleneck") options.blocks = {"stem", "widen", "rev", "down", "rev", "head"};
  return options;
}

// The specification's test 9, its first half: the paper's table 2.
TEST(RevNet, Spec9HasTheParameterCountsOfThePaper) {
  EXPECT_EQ(RevNet(sized(18)).num_parameters(), 12'215'912);
  EXPECT_EQ(RevNet(sized(34)).num_parameters(), 22'327'784);
  EXPECT_EQ(RevNet(sized(50)).num_parameters(), 30'421'608);
}

// Stages count from 1 in the paper: of RevNet-18 stages 1, 4, 6 and 8 are not reversible.
TEST(RevNet, ReversibleAreAllBlocksThatKeepTheShape) {
  const auto irreversible = [](int depth) {
    const RevNet model(sized(depth));
    std::vector<size_t> numbers;
    for (size_t i = 0; i + 1 < model.blocks.size(); ++i) {
      if (!model.blocks[i]->is_reversible()) numbers.push_back(i + 1);
    }
    return numbers;
  };
  EXPECT_EQ(RevNet(sized(18)).blocks.size(), 10u);
  EXPECT_EQ(RevNet(sized(34)).blocks.size(), 18u);
  EXPECT_EQ(RevNet(sized(50)).blocks.size(), 18u);
  EXPECT_EQ(irreversible(18), (std::vector<size_t>{1, 4, 6, 8}));
  EXPECT_EQ(irreversible(34), (std::vector<size_t>{1, 5, 9, 15}));
  EXPECT_EQ(irreversible(50), (std::vector<size_t>{1, 2, 5, 9, 15}));
}

TEST(RevNet, NamesItsBlocksAsResNetDoes) {
  const RevNet model(sized(50));
  std::vector<std::string> names;
  for (const auto& block : model.blocks) names.push_back(block->name());
  EXPECT_EQ(names[1], "layer1.0");
  EXPECT_EQ(names[4], "layer2.0");
  EXPECT_EQ(names[16], "layer4.2");
  EXPECT_EQ(names[17], "head");
}

TEST(RevNet, TrainsEveryParameter) {
  for (const char* kind : {"basic", "bottleneck"}) {
    RevNet model(tiny(kind));
    const FlatParams params(model, 1);
    ForwardContext training{.training = true}, evaluation;
    const at::Tensor images = model.example_input(4).contiguous(at::MemoryFormat::ChannelsLast);
    EXPECT_EQ(model.forward(images, evaluation).sizes(), (std::vector<int64_t>{4, 7}));
    model.loss(model.forward(images, training), model.example_target(4)).loss.backward();
    params.check_gradients_in_place();
    for (const Parameter* parameter : params.parameters()) {
      EXPECT_GT(parameter->tensor.grad().abs().max().item<double>(), 0) << parameter->name;
    }
  }
}

TEST(RevNet, MovesStatisticsOnlyWhenToldTo) {
  RevNet model(tiny("basic"));
  const FlatParams params(model, 1);
  const at::NoGradGuard no_grad;
  const at::Tensor before = params.buffers().clone();
  const at::Tensor images = model.example_input(4);
  ForwardContext quiet{.training = true, .moves_statistics = false}, usual{.training = true};
  const at::Tensor logits = model.forward(images, quiet);
  EXPECT_TRUE(bits_equal(params.buffers(), before));
  EXPECT_TRUE(bits_equal(model.forward(images, usual), logits));
  EXPECT_FALSE(bits_equal(params.buffers(), before));
}

TEST(RevNet, TheImageNetStemQuartersTheImage) {
  RevNet model({.width = 4, .image_size = 64});
  const FlatParams params(model, 1);
  ForwardContext context;
  const at::NoGradGuard no_grad;
  const Streams streams = model.blocks[0]->forward({.x = model.example_input(1)}, context);
  EXPECT_EQ(streams.x.sizes(), (std::vector<int64_t>{1, 4, 16, 16}));
  EXPECT_EQ(streams.other.sizes(), (std::vector<int64_t>{1, 4, 16, 16}));
}

std::string complaint(const std::string& keys, int depth = 0) {
  return text_of<ConfigError>([&] {
    auto settings = io::Settings::from_text("[model]\n" + keys, "my.toml");
    io::Section section = settings.section("model");
    RevNetOptions::read(section, depth, {.source = "data \"cifar10\"", .num_classes = 10});
  });
}

TEST(RevNet, RefusesListsThatAreNoRevNet) {
  EXPECT_EQ(complaint("blocks = [\"rev\", \"head\"]\n"),
            "my.toml:2:1: model.blocks must begin with \"stem\" and end with \"head\"");
  EXPECT_THAT(complaint("blocks = [\"stem\", \"rex\", \"head\"]\n"), HasSubstr("holds \"rex\""));
  EXPECT_THAT(complaint("blocks = [\"stem\", \"widen\", \"head\"]\n"),
              HasSubstr("which is for kind \"bottleneck\""));
  EXPECT_THAT(complaint("num_classes = 3\n", 18), HasSubstr("is smaller than the 10 classes"));
}

TEST(RevNet, ConfigGoesThereAndBack) {
  for (const char* kind : {"basic", "bottleneck"}) {
    const auto config = RevNet(tiny(kind)).config();
    EXPECT_EQ(RevNet(RevNetOptions::from_config(config, "config.json")).config(), config);
    auto wrong = config;
    wrong["blocks"] = {"stem"};
    EXPECT_EQ(text_of<DataError>([&] { RevNetOptions::from_config(wrong, "c.json"); }),
              "c.json: \"blocks\" must begin with \"stem\" and end with \"head\"");
    wrong["blocks"] = 7;
    EXPECT_THAT(text_of<DataError>([&] { RevNetOptions::from_config(wrong, "c.json"); }),
                HasSubstr("expected a list of texts"));
  }
}

}  // namespace
}  // namespace outstep::nn
