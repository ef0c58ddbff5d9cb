#include "outstep/nn/revvit.h"

#include <nlohmann/json.hpp>

#include "outstep/nn/coupling.h"
#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

using ::testing::HasSubstr;

// Heads of 16 channels: the fused attention.
RevVitOptions small(const std::string& head = "mean", const std::string& pool = "mean") {
  return {.layers = {.n_embd = 32, .n_layer = 2, .n_head = 2},
          .head = head,
          .pool = pool,
          .num_classes = 7,
          .image_size = 16};
}

RevVitOptions with_dropout(RevVitOptions options) {
  options.layers.embd_pdrop = options.layers.resid_pdrop = options.layers.attn_pdrop = 0.3;
  return options;
}

at::Tensor noise(const Model& model, int64_t batch) {
  const at::Tensor images = model.example_input(batch);
  fill_normal(images, 0, 1, {.seed = 3, .purpose = purpose("test.images")});
  return images;
}

TEST(RevVit, HasTheParametersOfAViT) {
  // 12 C² + 13 C a layer, 48 C + C of patches, 64 C of positions, 2 C of the norm, 10 C + 10.
  EXPECT_EQ(RevVit({.num_classes = 10}).num_parameters(), 5'362'378);
  EXPECT_EQ(RevVit({.pool = "token", .num_classes = 10}).num_parameters(), 5'362'378 + 2 * 192);
  EXPECT_EQ(RevVit({.head = "concat", .num_classes = 10}).num_parameters(), 5'362'378 + 12 * 192);
}

TEST(RevVit, AllButTheEndsIsReversible) {
  const RevVit model(small());
  ASSERT_EQ(model.blocks.size(), 6u);
  EXPECT_EQ(model.blocks[0]->name(), "embedding");
  EXPECT_EQ(model.blocks[1]->name(), "transformer.h.0.attn");
  EXPECT_EQ(model.blocks[4]->name(), "transformer.h.1.mlp");
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(model.blocks[i]->is_reversible(), i > 0 && i < 5);
}

TEST(RevVit, TrainsEveryParameter) {
  for (const char* head : {"mean", "concat"}) {
    for (const char* pool : {"mean", "token"}) {
      RevVit model(small(head, pool));
      const FlatParams params(model, 1);
      ForwardContext context{.training = true};
      const at::Tensor logits = model.forward(noise(model, 4), context);
      EXPECT_EQ(logits.sizes(), (std::vector<int64_t>{4, 7}));
      model.loss(logits, model.example_target(4)).loss.backward();
      params.check_gradients_in_place();
      for (const Parameter* parameter : params.parameters()) {
        EXPECT_GT(parameter->tensor.grad().abs().max().item<double>(), 0) << parameter->name;
      }
    }
  }
}

// The same network written down with torch's operators.
TEST(RevVit, IsTorchsComposition) {
  for (const char* head : {"mean", "concat"}) {
    for (const char* pool : {"mean", "token"}) {
      RevVit model(small(head, pool));
      const FlatParams params(model, 1, {.dtype = at::kDouble});
      const at::NoGradGuard no_grad;
      const at::Tensor images = noise(model, 3).to(at::kDouble);
      const auto p = [&](const std::string& name) { return find_parameter(params, name).tensor; };
      const auto norm = [&](const at::Tensor& x, const std::string& name) {
        return at::layer_norm(x, {x.size(-1)}, p(name + ".weight"), p(name + ".bias"));
      };
      const auto project = [&](const at::Tensor& x, const std::string& name) {
        return at::matmul(x, p(name + ".weight")) + p(name + ".bias");
      };
      at::Tensor x = at::conv2d(images, p("embedding.patches.weight"), p("embedding.patches.bias"),
                                /*stride=*/4)
                         .flatten(2)
                         .transpose(1, 2);
      const bool has_token = std::string(pool) == "token";
      if (has_token) x = at::cat({p("embedding.token").expand({3, 1, 32}), x}, 1);
      at::Tensor first = x + p("embedding.positions"), second = first;  // x₁, x₂
      for (const std::string layer : {"transformer.h.0", "transformer.h.1"}) {
        const auto qkv =
            project(norm(second, layer + ".ln_1"), layer + ".attn.c_attn").chunk(3, -1);
        const auto heads = [&](const at::Tensor& t) {
          return t.view({3, -1, 2, 16}).transpose(1, 2);
        };
        const at::Tensor weights =
            at::softmax(at::matmul(heads(qkv[0]), heads(qkv[1]).transpose(2, 3)) / 4, -1);
        const at::Tensor mixed = at::matmul(weights, heads(qkv[2])).transpose(1, 2).flatten(2);
        first = first + project(mixed, layer + ".attn.c_proj");
        const at::Tensor inner =
            at::gelu(project(norm(first, layer + ".ln_2"), layer + ".mlp.c_fc"), "tanh");
        second = second + project(inner, layer + ".mlp.c_proj");
      }
      // The last coupling has swapped them.
      const at::Tensor joined =
          std::string(head) == "concat" ? at::cat({second, first}, -1) : (first + second) / 2;
      const at::Tensor normed = norm(joined, "head.norm");
      const at::Tensor image = has_token ? normed.select(1, 0) : normed.mean(1);
      const at::Tensor expected = at::linear(image, p("head.fc.weight"), p("head.fc.bias"));
      ForwardContext context;
      EXPECT_LT(relative_difference(model.forward(images, context), expected), 1e-12);
    }
  }
}

// Dropout included: a block alone draws the same whenever it is evaluated, for each micro-batch its
// own.
TEST(RevVit, Spec4InversesUndoBlocksAndTheWholeChain) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    const double tolerance = type == at::kDouble ? 1e-14 : 1e-5;
    RevVit model(with_dropout(small()));
    const FlatParams params(model, 1, {.dtype = type});
    const at::NoGradGuard no_grad;
    ForwardContext context{.training = true, .seed = 5, .micro_batch = 3};
    ForwardContext other{.training = true, .seed = 5, .micro_batch = 4};
    std::vector<Streams> states = {
        model.blocks[0]->forward({.x = noise(model, 2).to(type)}, context)};
    EXPECT_TRUE(bits_equal(states[0].x, states[0].other));
    for (size_t i = 1; i < 5; ++i) {
      auto& block = dynamic_cast<Coupling&>(*model.blocks[i]);
      const Streams& input = states.back();
      const Streams output = block.forward(input, context);
      EXPECT_FALSE(bits_equal(output.x, block.forward(input, other).x)) << i;
      const Streams back = block.inverse(output, context);
      EXPECT_TRUE(bits_equal(back.x, input.x));
      EXPECT_LT(relative_difference(back.other, input.other), tolerance) << i;
      states.push_back(output);
    }
    Streams back = states.back();
    for (size_t i = 5; i-- > 1;) {
      back = dynamic_cast<Coupling&>(*model.blocks[i]).inverse(back, context);
    }
    EXPECT_LT(relative_difference(back.x, states[0].x), 10 * tolerance);
    EXPECT_LT(relative_difference(back.other, states[0].other), 10 * tolerance);
  }
}

// Going back block by block from the output alone gives the gradients of autograd through all.
TEST(RevVit, Spec4RebuiltGradientsAreAutograds) {
  RevVit model(with_dropout(small("concat", "token")));
  FlatParams params(model, 1, {.dtype = at::kDouble});
  const at::Tensor images = noise(model, 3).to(at::kDouble), targets = model.example_target(3);
  ForwardContext context{.training = true, .seed = 5, .micro_batch = 3};
  model.loss(model.forward(images, context), targets).loss.backward();
  const at::Tensor expected = params.gradients().clone();

  params.zero_gradients();
  Streams at = {.x = images};
  {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < 5; ++i) at = model.blocks[i]->forward(at, context);
  }
  const Streams leaves = as_leaves(at);
  model.loss(model.blocks[5]->forward(leaves, context).x, targets).loss.backward();
  Streams gradient = gradients_of(leaves);
  for (size_t i = 5; i-- > 1;) {
    Backward back =
        rebuild_and_differentiate(dynamic_cast<Coupling&>(*model.blocks[i]), at, gradient, context);
    at = back.input;
    gradient = back.gradient;
  }
  differentiate(*model.blocks[0], {.x = images}, gradient, context, {.wants_gradient = false});
  params.check_gradients_in_place();
  EXPECT_LT(relative_difference(params.gradients(), expected), 1e-13);
}

RevVitOptions read(const std::string& keys, const ModelFacts& facts) {
  auto settings = io::Settings::from_text("[model]\n" + keys, "my.toml");
  io::Section section = settings.section("model");
  auto options = RevVitOptions::read(section, facts);
  settings.require_all_used();
  return options;
}

TEST(RevVit, ReadsARecipe) {
  const auto options = read("n_embd = 64\nn_head = 4\npool = \"token\"\nhead = \"concat\"\n",
                            {.num_classes = 10, .input_shape = {1, 28, 28}});
  EXPECT_EQ(options.layers.n_embd, 64);
  EXPECT_EQ(options.layers.n_layer, 12);
  EXPECT_EQ(options.pool, "token");
  EXPECT_EQ(options.head, "concat");
  EXPECT_EQ(options.num_tokens(), 50);
  EXPECT_EQ(options.in_channels, 1);
  EXPECT_EQ(options.num_classes, 10);
  EXPECT_EQ(read("", {.input_shape = {3, 224, 224}}).num_patches(), 196);
}

TEST(RevVit, RefusesImpossibleSettings) {
  const ModelFacts cifar = {
      .source = "data \"cifar10\"", .num_classes = 10, .input_shape = {3, 32, 32}};
  const auto complaint = [&](const std::string& keys, const ModelFacts& facts) {
    return text_of<ConfigError>([&] { read(keys, facts); });
  };
  EXPECT_EQ(complaint("patch_size = 5\n", cifar),
            "my.toml:2:1: model.patch_size = 5 does not divide the 32 pixels of an image");
  EXPECT_EQ(complaint("n_head = 5\n", cifar),
            "my.toml:2:1: model.n_embd = 192 is not a multiple of model.n_head = 5");
  EXPECT_THAT(complaint("pool = \"max\"\n", cifar), HasSubstr("mean, token"));
  EXPECT_THAT(complaint("vocab_size = 9\n", cifar), HasSubstr("vocab_size"));
  EXPECT_THAT(complaint("name = \"revvit\"\n",
                        {.source = "data \"wide\"", .num_classes = 10, .input_shape = {3, 32, 48}}),
              HasSubstr("my.toml:2:1: this model \"revvit\" reads images of 32×32, but those of "
                        "data \"wide\" are 32×48"));
  EXPECT_THAT(complaint("num_classes = 3\n", cifar), HasSubstr("smaller than the 10 classes"));
}

TEST(RevVit, ConfigGoesThereAndBack) {
  const auto config = RevVit(small("concat", "token")).config();
  EXPECT_EQ(RevVit(RevVitOptions::from_config(config, "config.json")).config(), config);
  auto wrong = config;
  wrong["pool"] = "max";
  EXPECT_EQ(text_of<DataError>([&] { RevVitOptions::from_config(wrong, "c.json"); }),
            "c.json: \"pool\" is \"max\", expected \"mean\" or \"token\"");
  wrong = config;
  wrong["patch_size"] = 3;
  EXPECT_EQ(text_of<DataError>([&] { RevVitOptions::from_config(wrong, "c.json"); }),
            "c.json: \"patch_size\" 3 does not divide \"image_size\" 16");
}

}  // namespace
}  // namespace outstep::nn
