#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>

#include "outstep/io/safetensors.h"
#include "outstep/train/checkpoint.h"
#include "outstep/train/test_world.h"

// Engines of stages in whole runs: beside one process, with replicas, stopped and resumed, refused.

namespace outstep::train {
namespace {

using ::testing::HasSubstr;
using testing::model_bytes;
using testing::TemporaryFolder;
using Overrides = std::vector<std::string>;

class PipelineTest : public ::testing::Test {
 protected:
  PipelineTest() {
    testing::write_text_data(folder_.path() / "words.txt");
    testing::write_image_data(folder_.path() / "images");
  }
  // Three stages of a narrow RevNet-18, and of a reversible GPT with dropout.
  std::string images() const { return testing::image_recipe(folder_.path() / "images"); }
  std::string text() const { return testing::text_recipe(folder_.path() / "words.txt"); }
  static Overrides of_images() {
    return {"model.name=revnet18", "mesh.stages=3", "engine.stages=[3, 4, 3]"};
  }
  static Overrides of_text() {
    return {"model.name=revgpt", "mesh.stages=3", "engine.stages=[2, 2, 2]"};
  }
  static Overrides with(Overrides overrides, const Overrides& more) {
    overrides.insert(overrides.end(), more.begin(), more.end());
    return overrides;
  }
  std::string error_of(const Overrides& overrides) const {
    for (const auto& outcome : testing::on_world(
             {.toml = images(), .overrides = overrides, .folder = folder_.path() / "refused"},
             [](Recipe&, Assembly&) { return Summary{}; })) {
      if (!outcome.error.empty()) return outcome.error;
    }
    return "";
  }

  TemporaryFolder folder_;
};

// The same file, whoever computed it; and the same loss, whoever evaluated it.
TEST_F(PipelineTest, SynchronousStagesAreOneProcessBitForBit) {
  const Overrides alone = {"model.name=revnet18", "train.accumulation=2"};
  const Summary whole = testing::train_well(
      {.toml = images(), .overrides = alone, .folder = folder_.path() / "whole"});
  for (const std::string mode : {"gpipe", "1f1b"}) {
    for (const std::string checkpoint : {"false", "true"}) {
      const auto run = folder_.path() / (mode + checkpoint);
      const Summary staged = testing::train_well(
          {.toml = images(),
           .overrides = with(of_images(), {"engine.name=" + mode, "engine.checkpoint=" + checkpoint,
                                           "train.accumulation=2"}),
           .folder = run});
      EXPECT_EQ(model_bytes(run), model_bytes(folder_.path() / "whole")) << run;
      EXPECT_EQ(staged.validation_loss, whole.validation_loss) << run;
      EXPECT_EQ(staged.train_loss, whole.train_loss) << run;
    }
  }
}

// To evaluate, and to pause for a checkpoint.
TEST_F(PipelineTest, WhatStagesSendBetweenStepsIsNoTrafficOfSteps) {
  const Overrides overrides = with(of_images(), {"engine.name=petra"});
  const auto bytes_sent = [&](const std::string& name, const Overrides& more) {
    return testing::train_well({.toml = images(),
                                .overrides = with(overrides, more),
                                .folder = folder_.path() / name})
        .bytes_sent;
  };
  const int64_t expected = bytes_sent("seldom", {"evaluation.every=0"});
  EXPECT_GT(expected, 0);
  EXPECT_EQ(bytes_sent("evaluates", {"evaluation.every=1"}), expected);
  EXPECT_EQ(bytes_sent("saves", {"evaluation.every=0", "checkpoint.every=1"}), expected);
}

TEST_F(PipelineTest, Spec8RunsGoOnWhereTheyStoppedWithAFullPipeline) {
  for (const bool is_text : {false, true}) {
    for (const std::string mode : {"petra", "delayed", "pipedream", "dsp"}) {
      const Overrides overrides =
          with(is_text ? of_text() : of_images(), {"engine.name=" + mode, "evaluation.every=2"});
      const std::string toml = is_text ? text() : images();
      const auto straight = folder_.path() / (mode + (is_text ? "-t" : "-i"));
      const auto halved = folder_.path() / (mode + (is_text ? "-th" : "-ih"));
      testing::train_well({.toml = toml, .overrides = overrides, .folder = straight});
      testing::train_well(
          {.toml = toml, .overrides = with(overrides, {"train.steps=3"}), .folder = halved});
      // The schedule is a constant for images; for text the halves must have one of the whole.
      if (!is_text) {
        testing::train_well(
            {.toml = toml, .overrides = overrides, .folder = halved, .resume = true});
        EXPECT_EQ(model_bytes(halved), model_bytes(straight)) << mode;
      }
      const auto saved = folder_.path() / (mode + (is_text ? "-ts" : "-is"));
      const Overrides saving = with(overrides, {"checkpoint.every=3", "checkpoint.keep=9"});
      testing::train_well({.toml = toml, .overrides = saving, .folder = saved});
      EXPECT_EQ(model_bytes(saved), model_bytes(straight)) << mode << ": saving changed something";
      const auto checkpoints = list_checkpoints(saved);
      for (const auto& info : checkpoints) {
        if (info.step > 3) std::filesystem::remove_all(info.folder);
      }
      testing::train_well({.toml = toml, .overrides = saving, .folder = saved, .resume = true});
      EXPECT_EQ(model_bytes(saved), model_bytes(straight)) << mode << ": resumed";
    }
  }
}

// With one credit nothing is stale, so that even stages that run freely end with the same bits.
TEST_F(PipelineTest, FreeStagesGoOnWhereTheyStopped) {
  for (const std::string credits : {"1", "0"}) {
    const Overrides overrides =
        with(of_images(), {"engine.name=petra", "engine.pace=free", "engine.credits=" + credits});
    const auto straight = folder_.path() / ("free" + credits);
    const auto halved = folder_.path() / ("free-h" + credits);
    testing::train_well({.toml = images(), .overrides = overrides, .folder = straight});
    testing::train_well(
        {.toml = images(), .overrides = with(overrides, {"train.steps=3"}), .folder = halved});
    testing::train_well(
        {.toml = images(), .overrides = overrides, .folder = halved, .resume = true});
    if (credits == "1") {
      EXPECT_EQ(model_bytes(halved), model_bytes(straight));
    }
  }
}

// A reversible ViT: stages that wait are one process, and those that do not go on where they stood.
TEST_F(PipelineTest, AReversibleViTIsCutAndGoesOn) {
  const Overrides vit = {"model.name=revvit",    "model.n_embd=16",    "model.n_layer=2",
                         "model.n_head=1",       "model.patch_size=8", "model.resid_pdrop=0.1",
                         "train.accumulation=2", "checkpoint.every=3", "checkpoint.keep=9"};
  const Overrides stages = with(vit, {"mesh.stages=3", "engine.stages=[2, 2, 2]"});
  const auto run = [&](const std::string& name, const Overrides& overrides, bool resume = false) {
    const auto folder = folder_.path() / name;
    testing::train_well(
        {.toml = images(), .overrides = overrides, .folder = folder, .resume = resume});
    return model_bytes(folder);
  };
  EXPECT_EQ(run("1f1b", with(stages, {"engine.name=1f1b"})), run("alone", vit));
  const Overrides petra = with(stages, {"engine.name=petra"});
  const std::string straight = run("petra", petra);
  for (const auto& info : list_checkpoints(folder_.path() / "petra")) {
    if (info.step > 3) std::filesystem::remove_all(info.folder);
  }
  EXPECT_EQ(run("petra", petra, /*resume=*/true), straight);
}

TEST_F(PipelineTest, ReplicasOfStagesAgreeByAnySync) {
  for (const std::string sync : {"ddp", "zero1", "acco", "dpu"}) {
    Overrides overrides = {"model.name=revgpt",    "mesh.stages=2",      "mesh.replicas=2",
                           "engine.stages=[3, 3]", "engine.name=petra",  "sync.name=" + sync,
                           "train.accumulation=2", "checkpoint.every=4", "checkpoint.keep=9"};
    if (sync == "acco" || sync == "dpu") overrides.push_back("sync.counts=fixed");
    if (sync == "zero1") overrides.push_back("sync.overlap=true");
    const auto run = folder_.path() / sync;
    const Summary first =
        testing::train_well({.toml = text(), .overrides = overrides, .folder = run});
    EXPECT_TRUE(first.finished);
    const std::string model = model_bytes(run);
    for (const auto& info : list_checkpoints(run)) {
      if (info.step > 4) std::filesystem::remove_all(info.folder);
    }
    testing::train_well({.toml = text(), .overrides = overrides, .folder = run, .resume = true});
    EXPECT_EQ(model_bytes(run), model) << sync;
  }
}

// ddp and zero1, which agree bit for bit, do so of stages too.
TEST_F(PipelineTest, DdpAndZero1AreTheSameOfStages) {
  const auto run = [&](const std::string& sync, const Overrides& more) {
    const auto folder = folder_.path() / (sync + std::to_string(more.size()));
    testing::train_well(
        {.toml = images(),
         .overrides = with({"model.name=revnet18", "mesh.stages=2", "mesh.replicas=2",
                            "engine.stages=[4, 6]", "engine.name=petra", "sync.name=" + sync},
                           more),
         .folder = folder});
    return model_bytes(folder);
  };
  const std::string expected = run("ddp", {});
  EXPECT_EQ(run("zero1", {}), expected);
  EXPECT_EQ(run("zero1", {"sync.overlap=true"}), expected);
}

// With an empty pipeline, beyond what was drawn.
TEST_F(PipelineTest, AnotherNumberOfReplicasGoesOn) {
  const auto run = folder_.path() / "more";
  const Overrides overrides = with(of_text(), {"engine.name=petra"});
  testing::train_well(
      {.toml = text(), .overrides = with(overrides, {"train.steps=4"}), .folder = run});
  const Summary summary =
      testing::train_well({.toml = text(),
                           .overrides = with(overrides, {"mesh.replicas=2", "sync.name=ddp"}),
                           .folder = run,
                           .resume = true});
  EXPECT_TRUE(summary.finished);
  EXPECT_EQ(summary.steps, 8);
}

TEST_F(PipelineTest, StopsAtOneStepOnAllStages) {
  std::atomic<bool> stop = false;
  const auto run = folder_.path() / "stopped";
  const auto outcomes = testing::train(
      {.toml = text(),
       .overrides = with(of_text(), {"engine.name=petra", "train.steps=2000"}),
       .folder = run,
       .stop = &stop,
       .on_progress = [&](int, const Progress& progress) { stop = progress.step >= 5; }});
  for (const auto& outcome : outcomes) {
    EXPECT_EQ(outcome.error, "");
    EXPECT_EQ(outcome.summary.steps, outcomes.front().summary.steps);
    EXPECT_FALSE(outcome.summary.finished);
  }
}

TEST_F(PipelineTest, RefusesWhatMakesNoSense) {
  EXPECT_THAT(error_of({"mesh.stages=2"}), HasSubstr("engine \"backprop\" trains the whole model"));
  EXPECT_THAT(error_of({"mesh.stages=2", "engine.name=petra", "engine.stages=[3, 3]"}),
              HasSubstr("add up to the 10 of model \"resnet\""));
  EXPECT_THAT(error_of({"mesh.stages=11", "engine.name=petra"}),
              HasSubstr("--mesh.stages: mesh.stages = 11 is more than the 10 blocks of model "
                        "\"resnet\"; every stage needs one"));
  EXPECT_THAT(error_of({"mesh.stages=2", "engine.name=petra", "engine.stages=evenly"}),
              HasSubstr("engine.stages is \"evenly\", it must be one of: auto"));
  EXPECT_THAT(error_of({"mesh.stages=2", "mesh.replicas=2", "engine.name=petra",
                        "engine.stages=[5, 5]", "sync.name=acco"}),
              HasSubstr("set sync.counts = \"fixed\""));
  EXPECT_THAT(
      error_of({"mesh.stages=2", "mesh.replicas=2", "engine.name=1f1b", "engine.stages=[5, 5]",
                "sync.name=acco", "sync.counts=fixed", "train.accumulation=2"}),
      HasSubstr("engine \"1f1b\" needs the same parameters for all micro-batches"));
  EXPECT_THAT(error_of({"mesh.replicas=2", "engine.precision=fp64", "sync.name=zero1"}),
              HasSubstr("sync \"zero1\" works in float32"));
  EXPECT_THAT(error_of({"mesh.stages=2", "engine.name=petra", "engine.stages=[5, 5]",
                        "sync.on_nonfinite=skip"}),
              HasSubstr("each of the 2 stages judges its own gradient"));
  EXPECT_THAT(error_of({"mesh.stages=2", "engine.name=petra", "comm.backend=nccl"}),
              HasSubstr("stages send each other tensors on the CPU alone"));
  EXPECT_THAT(error_of({"mesh.stages=2", "engine.name=petra", "engine.credits=2"}),
              HasSubstr("engine.credits is for engine.pace = \"free\" alone"));
  EXPECT_THAT(
      error_of({"mesh.stages=2", "engine.name=petra", "engine.pace=free", "engine.flush_every=2"}),
      HasSubstr("engine.pace = \"free\" has no ticks"));
  EXPECT_THAT(error_of({"mesh.stages=2", "engine.name=1f1b", "engine.stages=memory"}),
              HasSubstr("cannot tell how large the graphs are"));
  EXPECT_THAT(error_of({"mesh.stages=2", "engine.name=petra", "engine.stages=[5, 5]",
                        "mesh.replicas=2", "engine.record_ticks=[3]", "engine.record_folder=here"}),
              HasSubstr("engine.record_ticks is for one pipeline, and here are 2"));
  EXPECT_THAT(error_of({"mesh.stages=2", "engine.name=petra", "engine.stages=[5, 5]",
                        "engine.record_ticks=[3]", "engine.record_folder=/proc/here"}),
              HasSubstr("engine.record_folder = \"/proc/here\": cannot be written to"));
  EXPECT_THAT(error_of({"engine.name=petra", "engine.record_ticks=[3]"}),
              HasSubstr("engine.record_ticks needs a record_folder"));
  EXPECT_THAT(
      error_of({"mesh.stages=3", "engine.stages=[3, 4, 3]", "engine.name=petra", "train.steps=4",
                "train.accumulation=2", "engine.record_ticks=[8, 9]", "engine.record_folder=here"}),
      HasSubstr("tick 9 of engine.record_ticks will not come on all stages: in train.steps "
                "= 4 of 2 micro-batches the last one is 8"));
}

// Replay: a trajectory in float64, written after named ticks, which another implementation is held
// against.
TEST_F(PipelineTest, RecordsNamedTicksInFloat64) {
  const auto record = folder_.path() / "record";
  const Overrides overrides =
      with(of_images(), {"engine.name=petra", "engine.precision=fp64", "train.steps=8",
                         "engine.record_ticks=[0, 5, 7, 8]",
                         "engine.record_folder=\"" + record.string() + "\""});
  testing::train_well({.toml = images(), .overrides = overrides, .folder = folder_.path() / "run"});
  for (const int tick : {0, 5, 7, 8}) {  // 8 is the last one that all stages record
    for (const int stage : {0, 1, 2}) {
      if (tick + 1 < stage) continue;  // it had not begun
      const io::Safetensors file(record /
                                 fmt::format("tick-{:06}-stage-{}.safetensors", tick, stage));
      const bool is_last = stage == 2;
      EXPECT_EQ(file.tensors().contains("losses"), is_last);
      EXPECT_EQ(file.tensor(is_last      ? "fc.weight"
                            : stage == 0 ? "conv1.weight"
                                         : "layer2.0.conv1.weight")
                    .scalar_type(),
                at::kDouble);
    }
  }
  // Stage 0 goes back first in tick 2 J - 1 - 1 = 4: at tick 0 nothing has changed.
  const auto weight = [&](int tick) {
    return io::Safetensors(record / fmt::format("tick-{:06}-stage-0.safetensors", tick))
        .tensor("conv1.weight")
        .clone();
  };
  EXPECT_FALSE(at::equal(weight(0), weight(5)));
  EXPECT_FALSE(at::equal(weight(5), weight(7)));
  EXPECT_FALSE(at::equal(weight(7), weight(8)));
}

}  // namespace
}  // namespace outstep::train
