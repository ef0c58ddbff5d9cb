#include "outstep/train/soup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/io/safetensors.h"
#include "outstep/nn/hugging_face.h"
#include "outstep/train/test_world.h"

namespace outstep::train {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class SoupTest : public ::testing::Test {
 protected:
  SoupTest() { testing::write_image_data(folder_.path() / "images"); }
  fs::path train(const std::string& name, const std::vector<std::string>& overrides) const {
    const fs::path run = folder_.path() / name;
    testing::train_well({.toml = testing::image_recipe(folder_.path() / "images"),
                         .overrides = overrides,
                         .folder = run});
    return run;
  }
  std::string error_of(const std::vector<fs::path>& named) const {
    try {
      write_soup(find_ingredients(named), folder_.path() / "refused");
    } catch (const DataError& error) {
      return error.what();
    }
    return "no error";
  }

  testing::TemporaryFolder folder_;
};

TEST_F(SoupTest, IsTheMeanOfRunsAndPopulationsTensorByTensor) {
  const fs::path one = train("one", {"train.steps=2"});
  const fs::path two = train("two", {"train.steps=2", "mesh.members=2", "train.seed=7"});
  const auto ingredients = find_ingredients({one, two});
  ASSERT_EQ(ingredients.size(), 3);
  const fs::path to = folder_.path() / "soup";
  write_soup(ingredients, to);
  const io::Safetensors soup(to / "model.safetensors");
  for (const auto& [name, info] : soup.tensors()) {
    at::Tensor sum = at::zeros(info.shape, at::kDouble);
    for (const Ingredient& ingredient : ingredients) {
      sum += io::Safetensors(ingredient.folder / "model.safetensors").tensor(name);
    }
    EXPECT_TRUE(at::equal(soup.tensor(name), (sum / 3).to(at::kFloat))) << name;
  }
  const auto provenance = nlohmann::json::parse(soup.metadata().at("soup"));
  ASSERT_EQ(provenance["ingredients"].size(), 3);
  EXPECT_EQ(provenance["ingredients"][2]["from"], two.string());
  EXPECT_NO_THROW(nn::read_model(to));
}

TEST_F(SoupTest, UnlikeModelsAreRefusedByName) {
  const fs::path narrow = train("narrow", {"train.steps=1"});
  const fs::path wide = train("wide", {"train.steps=1", "model.width=4"});
  EXPECT_THAT(error_of({narrow, wide}),
              AllOf(HasSubstr("wide"), HasSubstr("width"), HasSubstr("models of one shape")));
  const fs::path other = folder_.path() / "other";
  const auto ingredients = find_ingredients({narrow});
  fs::create_directory(other);
  fs::copy_file(ingredients[0].folder / "config.json", other / "config.json");
  io::write_safetensors(other / "model.safetensors", {{"conv1.weight", at::zeros({2, 3, 3, 3})}});
  EXPECT_THAT(error_of({narrow, other}),
              AllOf(HasSubstr("tensor \"bn1.bias\""), HasSubstr("missing")));
  EXPECT_FALSE(fs::exists(folder_.path() / "refused"));
}

}  // namespace
}  // namespace outstep::train
