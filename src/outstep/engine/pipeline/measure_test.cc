#include "outstep/engine/pipeline/testing.h"

// What a pipeline measures of itself on request: reconstruction errors, and the angle between its
// gradients and the exact ones.

namespace outstep::engine {
namespace {

using testing::Setting;
using testing::Variant;

// By stage and measurement.
using Reports = std::vector<std::vector<method::EngineReport>>;

Reports reports_of(const Setting& setting) {
  Reports reports(static_cast<size_t>(setting.num_stages()));
  comm::run_local_ranks(setting.num_stages(), [&](comm::Group& group) {
    testing::StageRank rank(setting, group);
    for (int64_t s = 0; s < setting.steps; ++s) {
      rank.step();
      const method::EngineReport report = rank.engine.take_report();
      if (report.gradient_alignment) reports[static_cast<size_t>(group.rank())].push_back(report);
    }
    rank.engine.pause();
  });
  return reports;
}

class Measured : public ::testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Modes, Measured, ::testing::ValuesIn(testing::variants()),
                         [](const auto& tested) { return "mode_" + tested.param.name; });

// Nothing is stale where nothing changes.
TEST_P(Measured, WithoutUpdatesGradientsAreTheExactOnes) {
  const Setting setting = GetParam().of({.cut = {2, 2, 3},
                                         .accumulation = 2,
                                         .steps = 8,
                                         .lr = 0,
                                         .precision = Precision::fp64,
                                         .measure_every = 4});
  for (const auto& of_stage : reports_of(setting)) {
    ASSERT_EQ(of_stage.size(), 4U);
    for (const method::EngineReport& report : of_stage) {
      EXPECT_NEAR(*report.gradient_alignment, 1, 1e-12);
      if (report.reconstruction_error) {
        EXPECT_LT(*report.reconstruction_error, 1e-12);
      }
    }
  }
}

// Whoever hears that a range is final may write it at once, as a sync that overlaps does.
TEST_P(Measured, BeforeAnybodyHearsOfTheGradient) {
  const Setting setting = GetParam().of({.cut = {3, 4}, .lr = 0, .measure_every = 1});
  comm::run_local_ranks(2, [&](comm::Group& group) {
    testing::StageRank rank(setting, group);
    rank.engine.on_range_ready([&](int64_t begin, int64_t end) {
      rank.params.gradients().narrow(0, begin, end - begin).zero_();
    });
    for (int s = 0; s < 5; ++s) {
      rank.engine.accumulate();
      EXPECT_NEAR(*rank.engine.take_report().gradient_alignment, 1, 1e-5);
    }
    rank.engine.pause();
  });
}

TEST_P(Measured, TrainingDoesNotNoticeIt) {
  for (const auto& make : {testing::basic_revnet, testing::revgpt}) {
    Setting setting = GetParam().of({.make_model = make, .cut = {2, 2}, .accumulation = 2});
    setting.cut.push_back(std::ssize(make()->blocks) - 4);
    const testing::Trajectory unmeasured = testing::train(setting);
    setting.measure_every = 2;
    const testing::Trajectory measured = testing::train(setting);
    for (size_t j = 0; j < measured.values.size(); ++j) {
      EXPECT_TRUE(at::equal(measured.values[j].back(), unmeasured.values[j].back())) << j;
      EXPECT_TRUE(at::equal(measured.buffers[j], unmeasured.buffers[j])) << j;
    }
  }
}

// With updates, what is rebuilt drifts and gradients turn; a schedule that flushes stays exact, and
// what petra rebuilds is worse the longer it waits.
TEST(Measured, UpdatesTurnGradientsAndSpoilInputs) {
  Setting setting{
      .cut = {3, 2, 2}, .steps = 12, .lr = 0.1, .precision = Precision::fp64, .measure_every = 4};
  const Reports petra = reports_of(setting);
  const auto last_of = [](const Reports& reports, size_t stage) { return reports[stage].back(); };
  EXPECT_LT(*last_of(petra, 0).gradient_alignment, 1 - 1e-6);
  EXPECT_GT(*last_of(petra, 0).gradient_alignment, 0);
  EXPECT_GT(*last_of(petra, 0).reconstruction_error, 1e-6);
  EXPECT_LT(*last_of(petra, 0).reconstruction_error, 1);
  setting.mode = "reversible";
  const Reports reversible = reports_of(setting);
  for (size_t j = 0; j < reversible.size(); ++j) {
    EXPECT_NEAR(*last_of(reversible, j).gradient_alignment, 1, 1e-12) << j;
  }
  EXPECT_LT(*last_of(reversible, 0).reconstruction_error, 1e-12);
}

}  // namespace
}  // namespace outstep::engine
