#include "outstep/ensemble/soup.h"

#include "outstep/ensemble/testing.h"

namespace outstep::ensemble {
namespace {

TEST(Soup, IsTheMeanOfItsIngredientsOnEveryMember) {
  const auto soups = testing::values_after(4, [](comm::Group& group) {
    const at::Tensor values = at::full({5}, static_cast<double>(1 << group.rank()), at::kFloat);
    make_soup(group, values, std::vector<int64_t>{0, 1, 0, 1});
    return values;
  });
  for (const at::Tensor& soup : soups) EXPECT_TRUE(at::equal(soup, at::full({5}, 5.0f)));
}

TEST(Soup, MayHaveMoreOfOneThanOfAnother) {
  const auto soups = testing::values_after(3, [](comm::Group& group) {
    // The second member has diverged, and is no part of it.
    const double value = group.rank() == 1 ? INFINITY : group.rank();
    const at::Tensor values = at::full({5}, value, at::kFloat);
    make_soup(group, values, std::vector<int64_t>{3, 0, 1});
    return values;
  });
  for (const at::Tensor& soup : soups) EXPECT_TRUE(at::equal(soup, at::full({5}, 0.5f)));
}

TEST(GreedySoup, TakesWhatMakesItBetter) {
  std::vector<std::vector<int>> asked;
  const auto score_of = [&](std::span<const int> ingredients) {
    asked.emplace_back(ingredients.begin(), ingredients.end());
    return ingredients.back() == 0 ? 0.6 : 0.8 + 0.01 * static_cast<double>(ingredients.size());
  };
  const GreedySoup soup = greedy_soup(std::vector<double>{0.7, 0.5, 0.75, 0.6}, score_of);
  EXPECT_EQ(soup.ingredients, (std::vector<int>{2, 3, 1}));
  EXPECT_DOUBLE_EQ(soup.score, 0.83);
  using Soups = std::vector<std::vector<int>>;
  EXPECT_EQ(asked, (Soups{{2, 0}, {2, 3}, {2, 3, 1}}));
}

TEST(GreedySoup, KeepsTheBestAloneWhereNothingHelps) {
  const auto as_good = [](std::span<const int>) { return 0.9; };
  EXPECT_EQ(greedy_soup(std::vector<double>{0.9, 0.9}, as_good).ingredients, std::vector<int>{0});
}

// A member that has diverged comes last wherever it stands, and spoils no soup.
TEST(GreedySoup, TakesWhatIsNoNumberForTheWorst) {
  const auto score_of = [](std::span<const int> ingredients) {
    const bool has_diverged =
        std::ranges::count(ingredients, 0) + std::ranges::count(ingredients, 3);
    return has_diverged ? NAN : -1.0 / static_cast<double>(ingredients.size());
  };
  const GreedySoup soup = greedy_soup(std::vector<double>{NAN, -2, -1, NAN, -3}, score_of);
  EXPECT_EQ(soup.ingredients, (std::vector<int>{2, 1, 4}));
  EXPECT_EQ(soup.score, -1.0 / 3);
  EXPECT_EQ(greedy_soup(std::vector<double>{NAN, NAN}, score_of).ingredients, std::vector<int>{0});
}

TEST(SoupOptions, WrongOnesAreRefusedWithTheReason) {
  const auto complaint = [](const std::string& keys,
                            const std::vector<std::string>& overrides = {}) -> std::string {
    try {
      auto settings = io::Settings::from_text("[ensemble]\n" + keys, "my.toml", overrides);
      io::Section section = settings.section("ensemble");
      SoupOptions::read(section);
      settings.require_all_used();
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(complaint("batch_norm = \"repair\""),
              HasSubstr("my.toml:2:1: ensemble.batch_norm = \"repair\" would rescale channels"));
  EXPECT_THAT(complaint("batch_norm = \"averge\""), HasSubstr("did you mean \"average\"?"));
  EXPECT_THAT(complaint("batch_norm = \"average\"", {"ensemble.batch_norm_batches=7"}),
              HasSubstr("--ensemble.batch_norm_batches: ensemble.batch_norm_batches is for "
                        "ensemble.batch_norm = \"recompute\", and here it is \"average\""));
  EXPECT_EQ(complaint("batch_norm_batches = 50", {"ensemble.batch_norm=average"}), "no error")
      << "a run that was to recompute them goes on with averages";
}

}  // namespace
}  // namespace outstep::ensemble
