#include "outstep/method/committing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "outstep/method/testing.h"

namespace outstep::method {
namespace {

using ::testing::HasSubstr;

optim::ExactSum sum_of(double value) {
  optim::ExactSum sum;
  sum.add(value);
  return sum;
}

TEST(Contribution, AddsUp) {
  Contribution a{.micro_batches = 1,
                 .samples = 2,
                 .units = 3,
                 .loss_sum = 4,
                 .num_losses = 5,
                 .staleness_sum = 6,
                 .staleness_max = 7};
  a += {.micro_batches = 10,
        .samples = 20,
        .units = 30,
        .loss_sum = 40,
        .num_losses = 50,
        .staleness_sum = 60,
        .staleness_max = 3};
  EXPECT_EQ(a.micro_batches, 11);
  EXPECT_EQ(a.samples, 22);
  EXPECT_EQ(a.units, 33);
  EXPECT_EQ(a.loss_sum, 44);
  EXPECT_EQ(a.num_losses, 55);
  EXPECT_EQ(a.staleness_sum, 66);
  EXPECT_EQ(a.staleness_max, 7);
}

TEST(Judge, ScalesTheSumToTheClippedMean) {
  const auto judged = judge(sum_of(64), 4, {.clip_norm = 1}, OnNonfinite::fail, {});
  EXPECT_DOUBLE_EQ(judged.norm, 2);  // |sum| / 4
  EXPECT_DOUBLE_EQ(judged.scale, 0.25 / (2 + 1e-6));
  EXPECT_EQ(judge(sum_of(64), 4, {}, OnNonfinite::fail, {}).scale, 0.25);
}

TEST(Judge, NamesTheStepOfAGradientThatIsNotFinite) {
  const Contribution local{.loss_sum = 6, .num_losses = 2};
  try {
    judge(sum_of(std::nan("")), 4, {.step = 12}, OnNonfinite::fail, local);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("the gradient of step 12 is not finite (this rank's mean "
                                        "loss: 3): training has diverged"));
    EXPECT_THAT(error.what(), HasSubstr("on_nonfinite = \"skip\""));
  }
  EXPECT_TRUE(judge(sum_of(std::nan("")), 4, {}, OnNonfinite::skip, {}).is_skipped);
}

TEST(BuffersBeforeStep, ArePutBackWhenAStepIsSkipped) {
  testing::ParametersOnly model({4}, /*num_buffers=*/2);
  nn::FlatParams params(model, 1);
  const auto after = [&](OnNonfinite on_nonfinite, bool is_skipped) {
    params.buffers().fill_(1);
    const BuffersBeforeStep before(params, on_nonfinite);
    params.buffers().fill_(std::nan(""));
    before.put_back_if_skipped({.is_skipped = is_skipped});
    return params.buffers()[1].item<float>();
  };
  EXPECT_EQ(after(OnNonfinite::skip, true), 1);
  EXPECT_TRUE(std::isnan(after(OnNonfinite::skip, false)));
  EXPECT_TRUE(std::isnan(after(OnNonfinite::fail, true)));  // never asked for: fail throws
}

// A stage that contributes nothing while it fills, then two micro-batches at once.
class Bursts : public testing::FormulaEngine {
 public:
  using FormulaEngine::FormulaEngine;
  Contribution accumulate() override {
    if (++num_calls % 2 == 1) return {};
    Contribution both = FormulaEngine::accumulate();
    return both += FormulaEngine::accumulate();
  }
  int num_calls = 0;
};

TEST(AccumulateExactly, AsksUntilTheCountIsReached) {
  testing::ParametersOnly model({4});
  nn::FlatParams params(model, 1);
  Bursts engine(params, {});
  int num_announced = 0;
  EXPECT_EQ(accumulate_exactly(engine, 4, [&] { ++num_announced; }).micro_batches, 4);
  EXPECT_EQ(engine.num_calls, 4);
  try {
    accumulate_exactly(engine, 3);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("finished 4 micro-batches where the sync asked for 3"));
  }
}

TEST(AccumulateExactly, AnnouncesTheLastCallOnce) {
  testing::ParametersOnly model({4});
  nn::FlatParams params(model, 1);
  testing::FormulaEngine engine(params, {});
  std::vector<int64_t> when;
  int64_t calls = 0;
  engine.on_range_ready([&](int64_t, int64_t) { ++calls; });
  accumulate_exactly(engine, 3, [&] { when.push_back(calls); });
  EXPECT_EQ(when, (std::vector<int64_t>{2}));
}

}  // namespace
}  // namespace outstep::method
