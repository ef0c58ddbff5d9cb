#include "outstep/apps/generate.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "outstep/nn/flat_params.h"
#include "outstep/nn/models.h"

namespace outstep::apps {
namespace {

class Generate : public testing::Test {
 protected:
  std::unique_ptr<nn::Model> model_ = nn::make_model(nlohmann::ordered_json{{"model_type", "gpt2"},
                                                                            {"n_layer", 1},
                                                                            {"n_head", 2},
                                                                            {"n_embd", 16},
                                                                            {"n_positions", 8},
                                                                            {"vocab_size", 256}},
                                                     "test");
  nn::FlatParams params_{*model_, 1};
};

TEST_F(Generate, IsAFunctionOfItsSeed) {
  const data::ByteTokenizer bytes;
  std::string joined;
  GenerateOptions options{.prompt = "A longer prompt than the context",
                          .sample = {.max_tokens = 20}};
  const std::string text =
      generate(*model_, bytes, options, [&](const std::string& piece) { joined += piece; });
  EXPECT_EQ(text.size(), 20u);
  EXPECT_EQ(joined, text);
  EXPECT_EQ(generate(*model_, bytes, options), text);
  options.sample.seed = 2;
  EXPECT_NE(generate(*model_, bytes, options), text);
  EXPECT_EQ(generate(*model_, bytes, {.prompt = "", .sample = {.max_tokens = 3}}).size(), 3u);
}

// Ends every document at once.
class EndsAtOnce : public data::ByteTokenizer {
 public:
  std::optional<int32_t> end_of_text() const override { return likeliest; }
  int32_t likeliest = 0;
};

TEST_F(Generate, StopsAtTheEndOfTheText) {
  const data::ByteTokenizer bytes;
  const GenerateOptions options{.prompt = "a", .sample = {.max_tokens = 5, .temperature = 0}};
  const std::string text = generate(*model_, bytes, options);
  ASSERT_EQ(text.size(), 5u);
  EndsAtOnce ends;
  ends.likeliest = static_cast<unsigned char>(text[0]);
  EXPECT_EQ(generate(*model_, ends, options), "");
}

}  // namespace
}  // namespace outstep::apps
