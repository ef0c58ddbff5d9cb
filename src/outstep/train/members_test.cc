#include "outstep/train/members.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "outstep/base/errors.h"
#include "outstep/train/recipe.h"

namespace outstep::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Recipe recipe_with(const std::vector<std::string>& overrides) {
  return read_recipe_text("[mesh]\nmembers = 4\nreplicas = 2\n", "test.toml", overrides);
}

std::string error_of(const std::vector<std::string>& overrides) {
  try {
    recipe_with(overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "none";
}

TEST(Members, AreAllWhereNothingIsSaid) {
  const Recipe recipe = recipe_with({});
  EXPECT_THAT(recipe.members.ids, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(recipe.members.lost, IsEmpty());
  EXPECT_FALSE(recipe.members.continues_on_loss);
  EXPECT_TRUE(recipe_with({"ensemble.on_loss=continue"}).members.continues_on_loss);
  EXPECT_THAT(recipe_with({"mesh.members=1"}).members.ids, ElementsAre(0));
}

TEST(Members, TheMeshIsOfThoseThatAreLeft) {
  const Recipe recipe = recipe_with({"ensemble.lost=[2, 0]"});
  EXPECT_THAT(recipe.members.ids, ElementsAre(1, 3));
  EXPECT_THAT(recipe.members.lost, ElementsAre(0, 2));
  EXPECT_EQ(recipe.mesh.members, 2);
  EXPECT_EQ(recipe.mesh.size(), 4);
  EXPECT_EQ(recipe_with({"ensemble.lost=[0, 1, 3]"}).mesh.members, 1);
  const Recipe again = read_recipe_text(recipe.settings.resolved(), "recipe.toml");
  EXPECT_EQ(again.members.ids, recipe.members.ids);
  EXPECT_EQ(again.members.lost, recipe.members.lost);
}

TEST(Members, AListThatCannotBeIsRefused) {
  EXPECT_THAT(error_of({"mesh.members=1", "ensemble.lost=[0]"}),
              HasSubstr("--ensemble.lost: ensemble.lost = [0]: mesh.members is 1"));
  EXPECT_THAT(error_of({"ensemble.lost=[4]"}),
              HasSubstr("the 4 members of mesh.members are numbered from 0"));
  EXPECT_THAT(error_of({"ensemble.lost=[-1]"}), HasSubstr("it must be at least 0"));
  EXPECT_THAT(error_of({"ensemble.lost=[1, 2, 1]"}), HasSubstr("member 1 is named twice"));
  EXPECT_THAT(error_of({"ensemble.lost=[0, 1, 2, 3]"}), HasSubstr("nobody is left to train"));
  EXPECT_THAT(error_of({"ensemble.on_loss=ignore"}), HasSubstr("fail, continue"));
}

TEST(Members, AreLostWithAnyOfTheirRanks) {
  const Recipe recipe = recipe_with({"ensemble.lost=[1]"});  // 0, 2 and 3, with two ranks each
  const auto lost = recipe.members.of_ranks(recipe.mesh, {3, 4, 2});
  EXPECT_THAT(lost, ElementsAre(2, 3));
  const Members left = recipe.members.without(lost);
  EXPECT_THAT(left.ids, ElementsAre(0));
  EXPECT_THAT(left.lost, ElementsAre(1, 2, 3));
  EXPECT_EQ(describe_members(lost), "members 2, 3");
  EXPECT_EQ(describe_members(left.ids), "member 0");
}

}  // namespace
}  // namespace outstep::train
