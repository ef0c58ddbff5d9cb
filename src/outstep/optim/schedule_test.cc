#include "outstep/optim/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "outstep/base/errors.h"

namespace outstep::optim {
namespace {

using testing::HasSubstr;

Schedule read(const std::string& keys, int64_t total_steps = 100, double lr = 2) {
  auto settings = io::Settings::from_text("[schedule]\n" + keys, "my.toml");
  return read_schedule(settings.section("schedule"), lr, total_steps);
}

std::string complaint(const std::string& keys, int64_t total_steps = 100) {
  try {
    read(keys, total_steps);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Schedule, IsConstantByDefault) {
  const Schedule schedule = read("");
  EXPECT_EQ(schedule.at(0), 2);
  EXPECT_EQ(schedule.at(99), 2);
}

TEST(Schedule, WarmsUpLinearlyBeforeEveryShape) {
  for (const std::string& name : schedule_names()) {
    const Schedule schedule = read("name = '" + name + "'\nwarmup_steps = 4");
    EXPECT_DOUBLE_EQ(schedule.at(0), 2.0 * 1 / 5) << name;
    EXPECT_DOUBLE_EQ(schedule.at(3), 2.0 * 4 / 5) << name;
    EXPECT_DOUBLE_EQ(schedule.at(4), 2) << name;
  }
}

TEST(Schedule, CosineFallsToItsFinalFactor) {
  const Schedule schedule = read("name = 'cosine'\nwarmup_steps = 20\nfinal_factor = 0.5");
  EXPECT_DOUBLE_EQ(schedule.at(20), 2);
  EXPECT_DOUBLE_EQ(schedule.at(60), 1.5);
  EXPECT_DOUBLE_EQ(schedule.at(100), 1);
  EXPECT_DOUBLE_EQ(schedule.at(1000), 1);
  EXPECT_LT(schedule.at(40.5), schedule.at(40));  // progress need not be whole
}

TEST(Schedule, StepFallsAtMilestones) {
  const Schedule schedule = read("name = 'step'\nmilestones = [10, 20]\ngamma = 0.5");
  EXPECT_DOUBLE_EQ(schedule.at(9), 2);
  EXPECT_DOUBLE_EQ(schedule.at(10), 1);
  EXPECT_DOUBLE_EQ(schedule.at(20), 0.5);
}

TEST(Schedule, TheUsualMilestonesOfAShortRunAreDistinctAndLaterThanItsBeginning) {
  using Steps = std::vector<int64_t>;
  const auto usual = [](int64_t steps) { return read("name = 'step'", steps).milestones; };
  EXPECT_EQ(usual(1), (Steps{}));
  EXPECT_EQ(usual(2), (Steps{1}));
  EXPECT_EQ(usual(3), (Steps{1, 2}));
  EXPECT_EQ(usual(100), (Steps{50, 75}));
  EXPECT_DOUBLE_EQ(read("name = 'step'", 1).at(0), 2);
}

TEST(Schedule, StableThenLinearDecay) {
  const Schedule schedule = read("name = 'wsd'\nwarmup_steps = 10\ndecay_fraction = 0.5");
  EXPECT_DOUBLE_EQ(schedule.at(50), 2);
  EXPECT_DOUBLE_EQ(schedule.at(75), 1);
  EXPECT_DOUBLE_EQ(schedule.at(100), 0);
}

TEST(Schedule, RefusesAWarmUpThatFillsTheRun) {
  EXPECT_THAT(complaint("warmup_steps = 100"),
              HasSubstr("my.toml:2:1: a warm-up of 100 steps fills the whole run of 100 steps"));
}

TEST(Schedule, RefusesMilestonesThatMakeNoSense) {
  EXPECT_THAT(complaint("name = 'step'\nmilestones = [20, 10]"), HasSubstr("increasing order"));
  EXPECT_THAT(complaint("name = 'step'\nmilestones = [20, 20]"), HasSubstr("each once"));
  EXPECT_THAT(complaint("name = 'step'\nmilestones = [20, 100]"),
              HasSubstr("milestone 100 is never reached in a run of 100 steps"));
}

TEST(Schedule, RefusesADecayThatDoesNotFit) {
  EXPECT_THAT(complaint("name = 'wsd'\nwarmup_steps = 60\ndecay_fraction = 0.5"),
              HasSubstr("do not fit in a run of 100 steps"));
}

TEST(Schedule, RefusesAnUnknownName) {
  EXPECT_THAT(complaint("name = 'cosin'"), HasSubstr("cosine"));
}

}  // namespace
}  // namespace outstep::optim
