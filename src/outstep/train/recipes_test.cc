#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "outstep/base/version.h"
#include "outstep/io/files.h"
#include "outstep/train/assembly.h"
#include "outstep/train/phantom.h"

// The recipes that come along, and docs/recipes.md, held against the program.

namespace outstep::train {
namespace {

namespace fs = std::filesystem;
using KeysBySection = std::map<std::string, std::set<std::string>>;

// Builds what the recipe says without peers or data; returns the resolved recipe.
std::string resolve(Recipe& recipe) {
  const auto fabric = phantom_fabric(recipe.mesh.size());
  const auto assembly = make_groups(recipe, *fabric);
  build(recipe, {}, *assembly, nullptr, MissingData::stand_in);
  return recipe.settings.resolved();
}

// "[section]" lines and "key = …" lines.
void add_keys(const std::string& resolved, KeysBySection& keys) {
  std::istringstream lines(resolved);
  std::string section;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with('[')) section = line.substr(1, line.find(']') - 1);
    const size_t equals = line.find(" = ");
    if (equals != std::string::npos) keys[section].insert(line.substr(0, equals));
  }
}

// "## [section]" headings and the first column of the tables under them.
KeysBySection documented_keys() {
  KeysBySection keys;
  std::istringstream lines(io::read_text(share_dir() / "docs" / "recipes.md"));
  const std::regex heading(R"(## \[([a-z]+)\])");
  const std::regex row(R"(\| `([a-z0-9_]+)` \|.*)");
  std::string section;
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_match(line, match, heading)) section = match[1];
    if (!section.empty() && std::regex_match(line, match, row)) keys[section].insert(match[1]);
  }
  return keys;
}

// Every kind of every choice is in one of these.
KeysBySection keys_of_the_program() {
  const std::vector<std::string> recipes = {
      "[model]\nn_layer = 1\nn_head = 1\nn_embd = 8\n[data]\nname = \"text\"\npath = \"none\"\n"
      "[schedule]\nname = \"cosine\"\n",
      "[model]\nn_layer = 1\nn_head = 1\nn_embd = 8\n[data]\nname = \"tokens\"\npath = \"none\"\n"
      "[mesh]\nreplicas = 2\n[sync]\nname = \"ddp\"\n[schedule]\nname = \"step\"\n",
      "[model]\nname = \"resnet18\"\nwidth = 2\n[data]\nname = \"cifar10\"\npath = \"none\"\n"
      "[optimizer]\nname = \"sgd\"\n[mesh]\nreplicas = 2\n[sync]\nname = \"zero1\"\n"
      "[schedule]\nname = \"wsd\"\n",
      "[model]\nname = \"mlp\"\n[data]\nname = \"mnist\"\npath = \"none\"\n"
      "[mesh]\nreplicas = 2\n[sync]\nname = \"acco\"\n",
      "[model]\nname = \"mlp\"\n[data]\nname = \"tensors\"\npath = \"none\"\n",
      "[model]\nname = \"revnet\"\nwidth = 2\n[data]\nname = \"cifar10\"\npath = \"none\"\n"
      "[mesh]\nstages = 2\n[engine]\nname = \"petra\"\n",
      "[model]\nname = \"revvit\"\nn_layer = 1\n[data]\nname = \"cifar10\"\npath = \"none\"\n",
      "[model]\nname = \"revgpt\"\nn_layer = 1\nn_head = 1\nn_embd = 8\n[data]\npath = \"none\"\n"
      "[engine]\nname = \"gpipe\"\n",
      "[model]\nname = \"mlp\"\n[data]\nname = \"mnist\"\npath = \"none\"\n[mesh]\nmembers = 2\n"
      "[ensemble]\nname = \"wash\"\ndepth = \"custom\"\ndepth_factors = [1, 0.5, 0]\n",
      "[model]\nname = \"mlp\"\n[data]\nname = \"mnist\"\npath = \"none\"\n[mesh]\nmembers = 2\n"
      "[ensemble]\nname = \"papa\"\n",
  };
  KeysBySection keys;
  for (const std::string& toml : recipes) {
    Recipe recipe = read_recipe_text(toml, "test.toml");
    add_keys(resolve(recipe), keys);
  }
  return keys;
}

TEST(RecipesTest, TheDocumentListsEveryKeyAndNoOther) {
  if (!fs::exists(share_dir() / "docs" / "recipes.md")) GTEST_SKIP() << "no sources here";
  const KeysBySection documented = documented_keys();
  const KeysBySection real = keys_of_the_program();
  for (const auto& [section, keys] : real) {
    ASSERT_TRUE(documented.contains(section)) << section;
    EXPECT_EQ(documented.at(section), keys) << "in [" << section << "]";
  }
  EXPECT_EQ(documented.size(), real.size());
}

TEST(RecipesTest, EveryRecipeThatComesAlongCanBeBuilt) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(share_dir() / "recipes")) {
    if (entry.path().extension() != ".toml") continue;
    const bool is_large = entry.path().stem() == "gpt2_124m";
    const std::vector<std::string> smaller = {"model.n_layer=1", "model.n_embd=24"};
    Recipe recipe = read_recipe(entry.path(), is_large ? smaller : std::vector<std::string>{});
    EXPECT_NO_THROW(resolve(recipe)) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 4);
}

TEST(RecipesTest, AResolvedRecipeResolvesToItself) {
  Recipe recipe = read_recipe(share_dir() / "recipes" / "quickstart.toml", {"train.seed=7"});
  const std::string once = resolve(recipe);
  Recipe again = read_recipe_text(once, "recipe.toml");
  KeysBySection keys_once;
  KeysBySection keys_again;
  add_keys(once, keys_once);
  add_keys(resolve(again), keys_again);
  EXPECT_EQ(keys_once, keys_again);
  EXPECT_EQ(again.train.seed, 7);
  EXPECT_EQ(again.mesh.replicas, 2);
}

}  // namespace
}  // namespace outstep::train
