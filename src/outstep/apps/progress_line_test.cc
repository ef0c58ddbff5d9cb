#include "outstep/apps/progress_line.h"

#include <gtest/gtest.h>

#include <cmath>

namespace outstep::apps {
namespace {

train::Progress halfway() {
  return {.step = 336,
          .steps = 800,
          .loss = 1.9412,
          .validation_loss = std::nullopt,
          .lr = 9.2e-4,
          .grad_norm = 0.53,
          .steps_per_second = 5.2,
          .units_per_second = 21'437,
          .overlap_fraction = 0.98,
          .unit = "tokens"};
}

TEST(ProgressBar, LooksLikeTqdm) {
  EXPECT_EQ(progress_bar(halfway(), 64, 200),
            " 42%|████████▍           | 336/800 [01:04<01:29, 5.2 step/s, loss 1.94, 21.4k tok/s, "
            "overlap 98%]");
}

TEST(ProgressBar, IsFullAtTheEndOnly) {
  train::Progress progress = halfway();
  progress.step = 799;
  EXPECT_TRUE(progress_bar(progress, 1, 200).starts_with(" 99%|███████████████████▉|"));
  progress.step = 800;
  EXPECT_TRUE(progress_bar(progress, 1, 200).starts_with("100%|████████████████████|"));
}

TEST(ProgressBar, IsCutBetweenCharacters) {
  EXPECT_EQ(progress_bar(halfway(), 64, 7), " 42%|██");
  EXPECT_EQ(cut_to_columns("äöü", 2), "äö");
  EXPECT_EQ(cut_to_columns("äöü", 9), "äöü");
}

TEST(ProgressBar, SaysSecondsAStepWhenSlow) {
  train::Progress progress = halfway();
  progress.steps_per_second = 0.25;
  EXPECT_NE(progress_bar(progress, 0, 200).find("4 s/step"), std::string::npos);
  progress.steps_per_second = 0;
  EXPECT_NE(progress_bar(progress, 0, 200).find("[00:00<??:??, ? step/s"), std::string::npos);
}

TEST(ProgressText, IsOneLineWithEveryNumber) {
  train::Progress progress = halfway();
  progress.overlap_fraction = 0;
  progress.validation_loss = 2.0;
  EXPECT_EQ(progress_text(progress),
            "step 336/800  loss 1.9412  validation 2.0000  lr 9.20e-04  grad 0.53  5.2 step/s  "
            "21.4k tok/s");
}

TEST(ProgressText, NumbersAndTimes) {
  EXPECT_EQ(compact_number(3.25), "3.2");
  EXPECT_EQ(compact_number(287), "287");
  EXPECT_EQ(compact_number(999.7), "1.0k");
  EXPECT_EQ(compact_number(123'456), "123k");
  EXPECT_EQ(compact_number(1'310'000), "1.31M");
  EXPECT_EQ(clock_time(3723), "1:02:03");
  EXPECT_EQ(clock_time(NAN), "??:??");
  EXPECT_EQ(rate_unit("images"), "img/s");
}

}  // namespace
}  // namespace outstep::apps
