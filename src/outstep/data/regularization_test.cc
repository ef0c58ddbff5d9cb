#include "outstep/data/regularization.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>

#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

TEST(Regularization, IsTheCartesianProductShuffled) {
  const auto all = heterogeneous_members(81, 1);
  ASSERT_EQ(all.size(), 81u);
  for (const double mixup : {0.0, 0.5, 1.0}) {
    for (const double smoothing : {0.0, 0.05, 0.1}) {
      for (const double cutmix : {0.0, 0.5, 1.0}) {
        for (const double erasing : {0.0, 0.15, 0.35}) {
          const Regularization wanted{mixup, smoothing, cutmix, erasing};
          EXPECT_EQ(std::ranges::count(all, wanted), 1);
        }
      }
    }
  }
}

TEST(Regularization, TheSeedShufflesAndMembersTakeTheFirst) {
  const auto five = heterogeneous_members(5, 1), all = heterogeneous_members(81, 1);
  EXPECT_TRUE(std::ranges::equal(five, std::span(all).first(5)));
  EXPECT_EQ(heterogeneous_members(5, 1), five);
  EXPECT_NE(heterogeneous_members(5, 2), five);
  EXPECT_TRUE(heterogeneous_members(0, 1).empty());
}

TEST(Regularization, RefusesMoreMembersThanCombinations) {
  EXPECT_EQ(testing::message_of<ConfigError>([] { heterogeneous_members(82, 1); }),
            "mesh.members = 82 is more than the 81 combinations of mixup, label smoothing, CutMix "
            "and random erasing that a heterogeneous population has");
}

}  // namespace
}  // namespace outstep::data
