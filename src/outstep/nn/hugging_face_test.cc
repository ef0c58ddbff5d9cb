#include "outstep/nn/hugging_face.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "outstep/nn/gpt2.h"
#include "outstep/nn/resnet.h"
#include "outstep/nn/testing.h"

namespace outstep::nn {
namespace {

using ::testing::HasSubstr;
using Named = std::vector<std::pair<std::string, at::Tensor>>;

Gpt2Options tiny(bool tied) {
  return {.vocab_size = 11,
          .n_positions = 8,
          .n_embd = 8,
          .n_layer = 1,
          .n_head = 2,
          .tie_word_embeddings = tied};
}

class HuggingFace : public ::testing::Test {
 protected:
  HuggingFace() {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              (std::string("hugging_face_") +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~HuggingFace() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
  }

  // Loads tensors, written as model.safetensors, into a model.
  void load(const Named& tensors, Model& model, FlatParams& params) const {
    io::write_safetensors(folder_ / "model.safetensors", tensors);
    load_folder(folder_, model, params);
  }

  std::filesystem::path folder_;
};

TEST_F(HuggingFace, AFolderGoesThereAndBack) {
  for (const bool tied : {true, false}) {
    Gpt2 model(tiny(tied));
    const FlatParams params(model, 1);
    write_folder(folder_, model, params);
    const auto again = read_model(folder_);
    EXPECT_EQ(again->config(), model.config());
    FlatParams loaded(*again, 2);
    load_folder(folder_, *again, loaded);
    EXPECT_TRUE(bits_equal(loaded.values(), params.values()));
    const io::Safetensors file(folder_ / "model.safetensors");
    EXPECT_EQ(file.metadata().at("format"), "pt");
    EXPECT_EQ(file.has("lm_head.weight"), !tied);
  }
}

TEST_F(HuggingFace, TakesWhatTransformersHasWritten) {
  Gpt2 source(tiny(true)), model(tiny(true));
  const FlatParams params(source, 1);
  FlatParams loaded(model, 2);
  Named tensors;
  const std::string prefix = "transformer.";
  for (const auto& [name, tensor] : params.named_tensors())
    tensors.emplace_back(name.substr(prefix.size()), tensor);
  tensors.emplace_back("h.0.attn.bias", at::ones({1, 1, 8, 8}));
  tensors.emplace_back("h.0.attn.masked_bias", at::ones({}));
  tensors.emplace_back("lm_head.weight", tensors[0].second.clone());
  load(tensors, model, loaded);
  EXPECT_TRUE(bits_equal(loaded.values(), params.values()));

  tensors.back().second.add_(1);
  EXPECT_THAT(
      text_of<DataError>([&] { load(tensors, model, loaded); }),
      HasSubstr("lm_head.weight differs from transformer.wte.weight, but this model ties them"));
}

TEST_F(HuggingFace, TakesTorchvisionsBuffers) {
  const ResNetOptions options = {.stem = "cifar", .width = 2, .num_classes = 3};
  ResNet source(options), model(options);
  const FlatParams params(source, 1);
  FlatParams loaded(model, 2);
  Named tensors = params.named_tensors();
  tensors.emplace_back("bn1.num_batches_tracked", at::ones({}, at::kLong));
  load(tensors, model, loaded);
  EXPECT_TRUE(bits_equal(loaded.values(), params.values()));
}

// Names are the file's: however long, they are only not the model's.
TEST_F(HuggingFace, ALongNameIsOneMoreWrongName) {
  Gpt2 model(tiny(true));
  FlatParams params(model, 1);
  Named tensors = params.named_tensors();
  tensors.emplace_back("h." + std::string(300'000, '1') + ".attn.bias", at::zeros({2}));
  EXPECT_NO_THROW(load(tensors, model, params));
  tensors.back().first += "es";
  EXPECT_THAT(text_of<DataError>([&] { load(tensors, model, params); }), HasSubstr(".attn.biases"));
}

TEST_F(HuggingFace, SaysWhatIsWrongWithAFolder) {
  Gpt2 model(tiny(true));
  FlatParams params(model, 1);
  const auto complaint = [&] {
    return text_of<DataError>([&] { load_folder(folder_, model, params); });
  };
  EXPECT_THAT(complaint(), HasSubstr("there is no model.safetensors in it"));
  write("pytorch_model.bin", "");
  EXPECT_THAT(complaint(), HasSubstr("pytorch_model.bin is a pickle, which is not read"));
  write("model.safetensors.index.json", "");
  EXPECT_THAT(complaint(), HasSubstr("the model is split over several files"));
  EXPECT_THAT(text_of<DataError>([&] { read_model(folder_); }), HasSubstr("config.json"));
  write("config.json", "{");
  EXPECT_THAT(text_of<DataError>([&] { read_model(folder_); }),
              HasSubstr("config.json: not JSON: "));
  write("config.json",
        R"({"model_type": )" + std::string(100'000, '[') + std::string(100'000, ']') + "}");
  EXPECT_THAT(text_of<DataError>([&] { read_model(folder_); }),
              HasSubstr("config.json: its JSON nests more than 32 levels deep"));
  EXPECT_THAT(
      text_of<DataError>([&] { load({{"wte.weight", at::zeros({2})}}, model, params); }),
      HasSubstr("tensor \"transformer.wte.weight\" has shape [2], this model needs [11, 8]"));
}

}  // namespace
}  // namespace outstep::nn
