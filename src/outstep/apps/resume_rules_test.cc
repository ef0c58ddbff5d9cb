#include "outstep/apps/resume_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "outstep/base/errors.h"

namespace outstep::apps {
namespace {

TEST(ResumeRules, WhatCannotChangeTheResultPasses) {
  EXPECT_TRUE(check_resume_overrides({}).empty());
  EXPECT_TRUE(check_resume_overrides({"log.every=1", "checkpoint.keep=5", "evaluation.every=10",
                                      "comm.deadline_seconds=5", "data.path=\"/elsewhere\"",
                                      "data.prefetch=0", "ensemble.on_loss=continue",
                                      "ensemble.barrier_points=3", "ensemble.batch_norm=average",
                                      "ensemble.batch_norm_batches=9", "ensemble.check_every=1"})
                  .empty());
}

TEST(ResumeRules, WhatChangesItIsTold) {
  const auto notes = check_resume_overrides({"train.steps=1200", "log.every=1", "mesh.replicas=1"});
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_EQ(notes[0],
            "--train.steps=1200: not bit for bit the run it was, since schedules that end with the "
            "run are stretched to the new end");
  EXPECT_EQ(check_resume_overrides({"ensemble.lost=[1]"})[0],
            "--ensemble.lost=[1]: not bit for bit the run it was, since the other members go on "
            "among themselves");
  EXPECT_EQ(check_resume_overrides({"mesh.replicas=2", "sync.name=zero1"}).size(), 2u);
  EXPECT_EQ(check_resume_overrides({"comm.backend=nccl"}).size(), 1u);
}

TEST(ResumeRules, WhatMakesItAnotherRunIsRefused) {
  for (const char* override : {"model.n_layer=3", "optimizer.lr=1", "train.seed=2", "data.name=x",
                               "sync.wire=bf16", "engine.micro_batch=8", "model.start_from=x"}) {
    EXPECT_THROW(check_resume_overrides({override}), ConfigError) << override;
  }
  try {
    check_resume_overrides({"train.seed=2"});
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "--train.seed=2: a run cannot go on with another train.seed; train anew with: "
                 "outstep train RECIPE --train.seed=2");
  }
}

}  // namespace
}  // namespace outstep::apps
