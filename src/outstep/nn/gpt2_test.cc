#include "outstep/nn/gpt2.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

using ::testing::HasSubstr;

const Gpt2Options kTiny = {
    .vocab_size = 31, .n_positions = 16, .n_embd = 24, .n_layer = 2, .n_head = 3};

TEST(Gpt2, HasThePapersParameterCounts) {
  EXPECT_EQ(Gpt2({}).num_parameters(), 124'439'808);
  EXPECT_EQ(Gpt2({.n_embd = 1024, .n_layer = 24, .n_head = 16}).num_parameters(), 354'823'168);
  EXPECT_EQ(Gpt2({.tie_word_embeddings = false}).num_parameters(), 124'439'808 + 50257 * 768);
}

TEST(Gpt2, HasHuggingFacesNamesAndLayouts) {
  Gpt2 model(kTiny);
  const FlatParams params(model, 1);
  std::vector<std::string> names;
  for (const auto& entry : params.entries()) names.push_back(entry.name);
  std::vector<std::string> expected = {"transformer.wte.weight", "transformer.wpe.weight"};
  for (const char* layer : {"transformer.h.0.", "transformer.h.1."}) {
    for (const char* part :
         {"ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"}) {
      expected.push_back(layer + std::string(part) + ".weight");
      expected.push_back(layer + std::string(part) + ".bias");
    }
  }
  expected.insert(expected.end(), {"transformer.ln_f.weight", "transformer.ln_f.bias"});
  EXPECT_EQ(names, expected);
  EXPECT_EQ(find_parameter(params, "transformer.h.1.attn.c_attn.weight").shape,
            (std::vector<int64_t>{24, 72}));
  EXPECT_EQ(find_parameter(params, "transformer.h.1.mlp.c_proj.weight").shape,
            (std::vector<int64_t>{96, 24}));
  EXPECT_EQ(model.blocks.size(), 4u);
  EXPECT_EQ(model.blocks[2]->name(), "transformer.h.1");
}

TEST(Gpt2, AnUntiedHeadHasATableOfItsOwn) {
  Gpt2Options options = kTiny;
  options.tie_word_embeddings = false;
  Gpt2 model(options);
  const FlatParams params(model, 1);
  EXPECT_EQ(params.entries().back().name, "lm_head.weight");
  EXPECT_EQ(params.entries().back().shape, (std::vector<int64_t>{31, 24}));
}

TEST(Gpt2, InitialisesAsThePaperDoes) {
  Gpt2 model({.vocab_size = 500, .n_positions = 64, .n_embd = 128, .n_layer = 8, .n_head = 4});
  const FlatParams params(model, 1);
  const auto deviation = [&](const std::string& name) {
    return find_parameter(params, name).tensor.detach().std().item<double>();
  };
  EXPECT_NEAR(deviation("transformer.wte.weight"), 0.02, 0.0005);
  EXPECT_NEAR(deviation("transformer.h.3.mlp.c_fc.weight"), 0.02, 0.0005);
  EXPECT_NEAR(deviation("transformer.h.3.mlp.c_proj.weight"), 0.02 / 4, 0.0002);
  EXPECT_NEAR(deviation("transformer.h.3.attn.c_proj.weight"), 0.02 / 4, 0.0002);
  ForwardContext context;
  const at::NoGradGuard no_grad;
  const at::Tensor logits = model.forward(model.example_input(2), context);
  EXPECT_NEAR(model.loss(logits, model.example_target(2).roll(7, 1)).loss.item<double>(),
              std::log(500), 0.1);
}

TEST(Gpt2, ATokenSeesNoLaterToken) {
  Gpt2 model(kTiny);
  const FlatParams params(model, 1);
  const at::NoGradGuard no_grad;
  ForwardContext context;
  const at::Tensor tokens = model.example_input(2);
  at::Tensor changed = tokens.clone();
  changed.select(1, 9).fill_(30);
  const at::Tensor a = model.forward(tokens, context), b = model.forward(changed, context);
  EXPECT_EQ(a.sizes(), (std::vector<int64_t>{2, 16, 31}));
  EXPECT_LT(relative_difference(b.narrow(1, 0, 9), a.narrow(1, 0, 9)), 1e-5);
  EXPECT_GT(relative_difference(b.narrow(1, 9, 7), a.narrow(1, 9, 7)), 1e-3);
}

TEST(Gpt2, RunsBackwardIntoTheFlatGradient) {
  for (const bool tied : {true, false}) {
    Gpt2Options options = kTiny;
    options.tie_word_embeddings = tied;
    Gpt2 model(options);
    const FlatParams params(model, 1);
    ForwardContext context{.training = true};
    const at::Tensor logits = model.forward(model.example_input(2), context);
    model.loss(logits, model.example_target(2).roll(-1, 1)).loss.backward();
    params.check_gradients_in_place();
    for (const Parameter* parameter : params.parameters()) {
      EXPECT_GT(parameter->tensor.grad().abs().max().item<double>(), 0) << parameter->name;
    }
  }
}

TEST(Gpt2, DropoutIsAFunctionOfSeedAndMicroBatch) {
  at::set_num_threads(1);
  Gpt2Options options = kTiny;
  options.embd_pdrop = options.resid_pdrop = options.attn_pdrop = 0.2;
  Gpt2 model(options);
  const FlatParams params(model, 1);
  const at::NoGradGuard no_grad;
  const auto run = [&](ForwardContext context) {
    return model.forward(model.example_input(2), context);
  };
  const at::Tensor base = run({.training = true, .seed = 1, .micro_batch = 5});
  EXPECT_TRUE(bits_equal(run({.training = true, .seed = 1, .micro_batch = 5}), base));
  EXPECT_FALSE(bits_equal(run({.training = true, .seed = 1, .micro_batch = 6}), base));
  EXPECT_FALSE(bits_equal(run({.training = true, .seed = 2, .micro_batch = 5}), base));
  EXPECT_FALSE(bits_equal(run({.training = false, .seed = 1, .micro_batch = 5}), base));
}

TEST(Gpt2, RefusesMoreTokensThanPositions) {
  Gpt2 model(kTiny);
  const FlatParams params(model, 1);
  ForwardContext context;
  EXPECT_EQ(text_of<ConfigError>([&] { model.forward(at::zeros({1, 17}, at::kLong), context); }),
            "17 tokens are more than model.n_positions = 16");
}

TEST(Gpt2, ReadsARecipe) {
  auto settings =
      io::Settings::from_text("[model]\nn_layer = 4\nn_head = 4\nn_embd = 256\nvocab_size = 300\n");
  io::Section section = settings.section("model");
  const auto options = Gpt2Options::read(section, {.vocab_size = 256, .context = 128});
  EXPECT_EQ(options.vocab_size, 300);
  EXPECT_EQ(options.n_positions, 128);
  EXPECT_EQ(options.n_embd, 256);
  EXPECT_EQ(options.inner(), 1024);
  EXPECT_EQ(options.embd_pdrop, 0);
  settings.require_all_used();
}

TEST(Gpt2, RefusesImpossibleSettings) {
  const auto complaint = [](const std::string& keys, const ModelFacts& facts) {
    return text_of<ConfigError>([&] {
      auto settings = io::Settings::from_text("[model]\n" + keys, "my.toml");
      io::Section section = settings.section("model");
      Gpt2Options::read(section, facts);
    });
  };
  EXPECT_THAT(complaint("n_head = 7\n", {}),
              HasSubstr("model.n_embd = 768 is not a multiple of model.n_head = 7"));
  EXPECT_THAT(complaint("n_head = 7\n", {}), HasSubstr("my.toml:2:1"));
  EXPECT_THAT(complaint("vocab_size = 100\n", {.source = "data \"text\"", .vocab_size = 256}),
              HasSubstr("model.vocab_size = 100 is smaller than the 256 tokens of data \"text\""));
  EXPECT_THAT(
      complaint("n_positions = 64\n", {.source = "data \"text\"", .context = 128}),
      HasSubstr(
          "model.n_positions = 64 is shorter than the 128 tokens in an example of data \"text\""));
  EXPECT_THAT(complaint("", {.source = "data \"cifar10\"", .num_classes = 10}),
              HasSubstr("model \"gpt2\" reads tokens, but data \"cifar10\" gives images"));
  complaint("n_layer = 0\n", {});
  complaint("resid_pdrop = 1.0\n", {});
}

TEST(Gpt2, ConfigGoesThereAndBack) {
  Gpt2Options options = kTiny;
  options.n_inner = 40;
  options.tie_word_embeddings = false;
  options.attn_pdrop = 0.25;
  const auto config = Gpt2(options).config();
  EXPECT_EQ(config["architectures"][0], "GPT2LMHeadModel");
  EXPECT_EQ(config["model_type"], "gpt2");
  const auto again = Gpt2Options::from_hugging_face(config, "config.json");
  EXPECT_EQ(Gpt2(again).config(), config);
  EXPECT_EQ(again.inner(), 40);
}

TEST(Gpt2, ReadsTransformersDefaults) {
  const auto config =
      nlohmann::ordered_json::parse(R"({"model_type": "gpt2", "n_layer": 6, "n_inner": null})");
  const auto options = Gpt2Options::from_hugging_face(config, "config.json");
  EXPECT_EQ(options.n_layer, 6);
  EXPECT_EQ(options.inner(), 3072);
  EXPECT_EQ(options.resid_pdrop, 0.1);
  EXPECT_TRUE(options.tie_word_embeddings);
}

TEST(Gpt2, RefusesOtherModelsConfigs) {
  const auto complaint = [](const std::string& text) {
    return text_of<DataError>(
        [&] { Gpt2Options::from_hugging_face(nlohmann::ordered_json::parse(text), "c.json"); });
  };
  EXPECT_EQ(complaint("[]"), "c.json: not a JSON object");
  EXPECT_EQ(complaint(R"({"model_type": "llama"})"),
            "c.json: model_type is \"llama\", expected \"gpt2\"");
  EXPECT_EQ(complaint(R"({"activation_function": "relu"})"),
            "c.json: activation_function \"relu\" is not supported, only \"gelu_new\" is");
  EXPECT_EQ(complaint(R"({"scale_attn_by_inverse_layer_idx": true})"),
            "c.json: scale_attn_by_inverse_layer_idx = true is not supported");
  EXPECT_EQ(complaint(R"({"n_layer": "six"})"),
            "c.json: \"n_layer\" is \"six\", which is of the wrong type");
  EXPECT_EQ(complaint(R"({"n_layer": -1})"), "c.json: \"n_layer\" is -1, which is no size");
  EXPECT_EQ(complaint(R"({"n_head": 5})"), "c.json: n_embd = 768 is not a multiple of n_head = 5");
  EXPECT_EQ(complaint(R"({"resid_pdrop": 1})"),
            "c.json: \"resid_pdrop\" is 1, which is not in [0, 1)");
}

}  // namespace
}  // namespace outstep::nn
