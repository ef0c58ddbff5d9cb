#include "outstep/nn/revgpt.h"

#include <nlohmann/json.hpp>
#include <set>

#include "outstep/nn/attention.h"
#include "outstep/nn/coupling.h"
#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

using ::testing::HasSubstr;

RevGptOptions small(const std::string& head = "mean") {
  return {.gpt = {.vocab_size = 31,
                  .n_positions = 16,
                  .n_embd = 32,
                  .n_layer = 2,
                  .n_head = 2,
                  .tie_word_embeddings = false},
          .head = head};
}

std::set<std::string> names_of(const FlatParams& params) {
  std::set<std::string> names;
  for (const auto& entry : params.entries()) names.insert(entry.name);
  return names;
}

TEST(RevGpt, HasGpt2sParameters) {
  RevGpt model(small());
  Gpt2 plain(small().gpt);
  const FlatParams params(model, 1), plain_params(plain, 1);
  EXPECT_EQ(model.num_parameters(), plain.num_parameters());
  EXPECT_EQ(names_of(params), names_of(plain_params));
  EXPECT_EQ(model.blocks.size(), 6u);
  EXPECT_EQ(model.blocks[1]->name(), "transformer.h.0.attn");
  EXPECT_EQ(model.blocks[4]->name(), "transformer.h.1.mlp");
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(model.blocks[i]->is_reversible(), i > 0 && i < 5);
}

TEST(RevGpt, TrainsEveryParameterUnderBothHeads) {
  for (const char* head : {"mean", "concat"}) {
    RevGpt model(small(head));
    const FlatParams params(model, 1);
    ForwardContext context{.training = true};
    const at::Tensor logits = model.forward(model.example_input(2), context);
    EXPECT_EQ(logits.sizes(), (std::vector<int64_t>{2, 16, 31}));
    model.loss(logits, model.example_target(2)).loss.backward();
    params.check_gradients_in_place();
    for (const Parameter* parameter : params.parameters()) {
      EXPECT_GT(parameter->tensor.grad().abs().max().item<double>(), 0) << parameter->name;
    }
  }
}

// A block alone draws the same dropout whenever it is evaluated, for each micro-batch its own.
TEST(RevGpt, Spec4DropoutIsUndoneToo) {
  RevGptOptions options = small();
  options.gpt.resid_pdrop = options.gpt.attn_pdrop = 0.3;
  RevGpt model(options);
  const FlatParams params(model, 1);
  const at::NoGradGuard no_grad;
  ForwardContext first{.training = true, .seed = 5, .micro_batch = 3};
  ForwardContext other{.training = true, .seed = 5, .micro_batch = 4};
  const Streams input = model.blocks[0]->forward({.x = model.example_input(2)}, first);
  for (size_t i = 1; i < 5; ++i) {
    auto& block = dynamic_cast<Coupling&>(*model.blocks[i]);
    const Streams output = block.forward(input, first);
    EXPECT_FALSE(bits_equal(output.x, block.forward(input, other).x)) << i;
    const Streams back = block.inverse(output, first);
    EXPECT_TRUE(bits_equal(back.x, input.x));
    EXPECT_LT(relative_difference(back.other, input.other), 1e-5) << i;
  }
}

TEST(RevGpt, ATokenAtATimeGivesTheSameLogits) {
  RevGpt model(small());
  const FlatParams params(model, 1);
  const at::NoGradGuard no_grad;
  const at::Tensor tokens = model.example_input(1);
  ForwardContext whole;
  const at::Tensor expected = model.forward(tokens, whole);
  KeyValueCache cache(2, 16);
  for (int64_t t = 0; t < 16; ++t) {
    ForwardContext context{.cache = &cache};
    const at::Tensor logits = model.forward(tokens.narrow(1, t, 1), context);
    cache.advance(1);
    EXPECT_LT(relative_difference(logits, expected.narrow(1, t, 1)), 1e-5) << t;
  }
}

TEST(RevGpt, ReadsARecipeAndRefusesATiedWideHead) {
  const auto read = [](const std::string& keys) {
    auto settings = io::Settings::from_text("[model]\n" + keys, "my.toml");
    io::Section section = settings.section("model");
    return RevGptOptions::read(section, {.vocab_size = 256, .context = 64});
  };
  EXPECT_FALSE(read("").gpt.tie_word_embeddings);
  EXPECT_EQ(read("").gpt.vocab_size, 256);
  EXPECT_TRUE(read("tie_word_embeddings = true\n").gpt.tie_word_embeddings);
  EXPECT_THAT(
      text_of<ConfigError>([&] { read("tie_word_embeddings = true\nhead = \"concat\"\n"); }),
      HasSubstr("my.toml:2:1: model.tie_word_embeddings needs a head as wide"));
}

TEST(RevGpt, ConfigGoesThereAndBack) {
  const auto config = RevGpt(small("concat")).config();
  EXPECT_EQ(RevGpt(RevGptOptions::from_config(config, "config.json")).config(), config);
  auto wrong = config;
  wrong["head"] = "sum";
  EXPECT_THAT(text_of<DataError>([&] { RevGptOptions::from_config(wrong, "c.json"); }),
              HasSubstr("c.json: \"head\" is \"sum\""));
  wrong["head"] = "concat";
  wrong["tie_word_embeddings"] = true;
  EXPECT_THAT(text_of<DataError>([&] { RevGptOptions::from_config(wrong, "c.json"); }),
              HasSubstr("a tied head cannot be \"concat\""));
}

}  // namespace
}  // namespace outstep::nn
