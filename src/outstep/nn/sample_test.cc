#include "outstep/nn/sample.h"

#include "outstep/nn/attention.h"
#include "outstep/nn/gpt2.h"
#include "outstep/nn/mlp.h"
#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

const Gpt2Options kTiny = {
    .vocab_size = 31, .n_positions = 16, .n_embd = 24, .n_layer = 2, .n_head = 3};

// A model whose next token is far from certain: the initial one is uniform, and this one is not.
struct TextModel {
  Gpt2 model{kTiny};
  FlatParams params{model, 1};
  TextModel() { params.values().mul_(8); }
};

TEST(Sample, TheCacheGivesTheLogitsOfTheWholeText) {
  TextModel text;
  const at::NoGradGuard no_grad;
  const at::Tensor tokens = text.model.example_input(2);
  ForwardContext whole;
  const at::Tensor expected = text.model.forward(tokens, whole);
  KeyValueCache cache(kTiny.n_layer, kTiny.n_positions);
  ForwardContext context{.cache = &cache};
  for (const int64_t t : {0, 5, 6, 7}) {
    const int64_t length = t == 0 ? 5 : 1;
    const at::Tensor logits = text.model.forward(tokens.narrow(1, t, length), context);
    cache.advance(length);
    EXPECT_LT(relative_difference(logits, expected.narrow(1, t, length)), 1e-5);
  }
  EXPECT_EQ(cache.length(), 8);
}

TEST(Sample, TemperatureZeroTakesTheLikeliest) {
  TextModel text;
  const auto drawn = sample(text.model, {3, 1, 4}, {.max_tokens = 6, .temperature = 0});
  const at::NoGradGuard no_grad;
  std::vector<int64_t> tokens = {3, 1, 4};
  for (int64_t token : drawn) {
    ForwardContext context;
    const at::Tensor logits =
        text.model.forward(at::tensor(tokens, at::kLong).unsqueeze(0), context);
    EXPECT_EQ(logits[0][-1].argmax().item<int64_t>(), token);
    tokens.push_back(token);
  }
  EXPECT_EQ(drawn.size(), 6u);
  EXPECT_EQ(sample(text.model, {3, 1, 4}, {.max_tokens = 6, .top_k = 1}), drawn);
}

TEST(Sample, TheSeedDecides) {
  TextModel text;
  const auto draw = [&](uint64_t seed) {
    return sample(text.model, {7}, {.max_tokens = 12, .seed = seed});
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Sample, DrawsByProbability) {
  TextModel text;
  text.params.values().zero_();
  std::vector<int64_t> counts(31);
  for (uint64_t seed = 0; seed < 30; ++seed) {
    for (int64_t token : sample(text.model, {0}, {.max_tokens = 31, .seed = seed})) ++counts[token];
  }
  for (int64_t count : counts) EXPECT_NEAR(static_cast<double>(count), 30, 25);
}

TEST(Sample, GoesOnWhenTheContextIsFull) {
  TextModel text;
  std::vector<int64_t> seen;
  const auto drawn =
      sample(text.model, {1, 2}, {.max_tokens = 50}, [&](int64_t token) { seen.push_back(token); });
  EXPECT_EQ(drawn.size(), 50u);
  EXPECT_EQ(seen, drawn);
  EXPECT_EQ(sample(text.model, std::vector<int64_t>(40, 2), {.max_tokens = 3}).size(), 3u);
}

TEST(Sample, RefusesWhatCannotBe) {
  TextModel text;
  Mlp mlp({});
  EXPECT_EQ(text_of<ConfigError>([&] { sample(text.model, {}, {}); }),
            "the prompt is empty; it needs at least one token");
  EXPECT_EQ(text_of<ConfigError>([&] { sample(text.model, {1, 31}, {}); }),
            "token 31 of the prompt is outside the model's vocabulary of 31");
  EXPECT_EQ(text_of<ConfigError>([&] { sample(mlp, {1}, {}); }),
            "a model of the family \"mlp\" makes no text; only \"gpt2\" and \"revgpt\" do");
}

}  // namespace
}  // namespace outstep::nn
