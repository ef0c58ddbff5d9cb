#include "outstep/train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "outstep/io/files.h"
#include "outstep/nn/hugging_face.h"
#include "outstep/train/checkpoint.h"
#include "outstep/train/evaluation.h"
#include "outstep/train/metrics.h"
#include "outstep/train/run_lock.h"
#include "outstep/train/test_world.h"

namespace outstep::train {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using testing::file_bytes;
using ::testing::HasSubstr;
using testing::model_bytes;
using ::testing::StartsWith;
using testing::TemporaryFolder;
using testing::train_well;
using testing::WorldRun;

std::vector<Json> lines_of(const std::filesystem::path& path, const std::string& kind) {
  std::vector<Json> lines;
  std::istringstream text(file_bytes(path));
  for (std::string line; std::getline(text, line);) {
    const Json json = Json::parse(line);
    if (json.at("kind") == kind) lines.push_back(json);
  }
  return lines;
}

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() {
    at::set_num_threads(1);
    testing::write_text_data(folder_.path() / "words.txt");
    testing::write_image_data(folder_.path() / "images");
  }

  std::string text() const { return testing::text_recipe(folder_.path() / "words.txt"); }
  std::string images() const { return testing::image_recipe(folder_.path() / "images"); }
  std::filesystem::path run(const std::string& name) const { return folder_.path() / name; }

  TemporaryFolder folder_;
};

// Rank 0 accumulating the micro-batches of both replicas is what replicas must come to.
TEST_F(TrainerTest, ReplicasEqualOneRankAccumulatingBitForBit) {
  const Summary one =
      train_well({.toml = text(), .overrides = {"train.accumulation=2"}, .folder = run("one")});
  const std::pair<std::string, std::vector<std::string>> syncs[] = {
      {"ddp", {"sync.name=ddp"}},
      {"zero1", {"sync.name=zero1"}},
      {"zero1_overlap", {"sync.name=zero1", "sync.overlap=true", "sync.bucket_bytes=4096"}}};
  for (auto [sync, overrides] : syncs) {
    overrides.push_back("mesh.replicas=2");
    const Summary two = train_well({.toml = text(), .overrides = overrides, .folder = run(sync)});
    EXPECT_EQ(model_bytes(run(sync)), model_bytes(run("one"))) << sync;
    EXPECT_EQ(two.validation_loss, one.validation_loss) << sync;
    EXPECT_GT(two.bytes_sent, 0);
  }
  EXPECT_EQ(one.bytes_sent, 0);
}

TEST_F(TrainerTest, EvaluationHasTheSameBitsForAnyNumberOfReplicas) {
  std::vector<std::optional<double>> losses;
  for (const std::string replicas : {"1", "2", "3"}) {
    const auto outcomes = testing::on_world(
        {.toml = text(), .overrides = {"mesh.replicas=" + replicas}, .folder = {}},
        [](Recipe& recipe, Assembly& assembly) {
          Summary summary;
          summary.validation_loss = evaluate(recipe, assembly).loss();
          return summary;
        });
    for (const auto& outcome : outcomes) {
      ASSERT_EQ(outcome.error, "");
      losses.push_back(outcome.summary.validation_loss);
    }
  }
  for (const auto& loss : losses) EXPECT_EQ(loss, losses.front());
  EXPECT_GT(losses.front(), 1);
}

TEST_F(TrainerTest, ReplicasKeepTheirOwnRunningStatisticsThroughAnEvaluation) {
  const auto outcomes =
      testing::on_world({.toml = images(), .overrides = {"mesh.replicas=2"}, .folder = {}},
                        [](Recipe& recipe, Assembly& assembly) {
                          assembly.engine->accumulate();
                          const at::Tensor before = assembly.params->buffers().clone();
                          const method::Evaluation evaluation = evaluate(recipe, assembly);
                          EXPECT_TRUE(before.equal(assembly.params->buffers()));
                          Summary summary;
                          summary.validation_loss = evaluation.loss();
                          summary.train_loss = before.sum().item<double>();
                          return summary;
                        });
  ASSERT_EQ(outcomes[0].error, "");
  EXPECT_NE(outcomes[0].summary.train_loss, outcomes[1].summary.train_loss);
  EXPECT_EQ(outcomes[0].summary.validation_loss, outcomes[1].summary.validation_loss);
}

TEST_F(TrainerTest, AllRanksStopAtTheSameStepAndTheRunGoesOn) {
  std::atomic<bool> stop = false;
  const std::vector<std::string> overrides = {"mesh.replicas=2", "sync.name=zero1"};
  const WorldRun wanted{.toml = text(), .overrides = overrides, .folder = run("whole")};
  train_well(wanted);
  WorldRun stopped{.toml = text(), .overrides = overrides, .folder = run("stopped"), .stop = &stop};
  stopped.on_progress = [&](int, const Progress& progress) {
    if (progress.step == 2) stop = true;
  };
  const auto outcomes = testing::train(stopped);
  for (const auto& outcome : outcomes) {
    ASSERT_EQ(outcome.error, "");
    EXPECT_FALSE(outcome.summary.finished);
    EXPECT_EQ(outcome.summary.steps, outcomes[0].summary.steps);
  }
  EXPECT_GE(outcomes[0].summary.steps, 3);
  EXPECT_LT(outcomes[0].summary.steps, 8);
  const Summary rest = train_well(
      {.toml = text(), .overrides = overrides, .folder = run("stopped"), .resume = true});
  EXPECT_TRUE(rest.finished);
  EXPECT_EQ(model_bytes(run("stopped")), model_bytes(run("whole")));
}

TEST_F(TrainerTest, MetricsTellEachStepOnceWithItsUnits) {
  train_well({.toml = text(),
              .overrides = {"mesh.replicas=2", "sync.name=ddp", "evaluation.every=4",
                            "checkpoint.every=4"},
              .folder = run("metrics")});
  const auto lines = lines_of(metrics_path(run("metrics"), 0), "train");
  ASSERT_EQ(lines.size(), 8);
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].at("step"), i + 1);
    EXPECT_GT(lines[i].at("loss"), 0.5);
    EXPECT_GT(lines[i].at("lr"), 0);
    EXPECT_GT(lines[i].at("grad_norm"), 0);
    EXPECT_GT(lines[i].at("tokens_per_second"), 0);
    EXPECT_GT(lines[i].at("bytes_sent"), 0);
    EXPECT_EQ(lines[i].at("micro_batches"), 2);
    EXPECT_EQ(lines[i].at("staleness/mean"), 0);
    EXPECT_EQ(lines[i].at("staleness/max"), 0);
    for (const char* key : {"overlap_fraction", "idle_seconds", "communication_seconds",
                            "memory/peak_bytes", "memory/rss_bytes"}) {
      EXPECT_TRUE(lines[i].contains(key)) << key;
    }
  }
  EXPECT_EQ(lines_of(metrics_path(run("metrics"), 0), "validation").size(), 2);
  EXPECT_EQ(lines_of(metrics_path(run("metrics"), 0), "checkpoint").size(), 2);
  // What ranks say of all replicas together is the same.
  const auto others = lines_of(metrics_path(run("metrics"), 1), "train");
  ASSERT_EQ(others.size(), 8);
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(others[i].at("loss"), lines[i].at("loss"));
}

TEST_F(TrainerTest, ResumingDropsLinesOfStepsThatAreRepeated) {
  train_well({.toml = text(), .overrides = {"checkpoint.every=4"}, .folder = run("whole")});
  train_well({.toml = text(), .overrides = {"checkpoint.every=4"}, .folder = run("killed")});
  // As if the run had been killed after step 7: its last checkpoint never came to be.
  std::filesystem::remove_all(run("killed") / "checkpoints" / "step-00000008");
  const auto path = metrics_path(run("killed"), 0);
  const std::string all = file_bytes(path);
  io::write_text_atomically(path, all.substr(0, all.rfind("{\"kind\":\"train\"") + 20));
  train_well({.toml = text(),
              .overrides = {"checkpoint.every=4"},
              .folder = run("killed"),
              .resume = true});
  const auto lines = lines_of(path, "train");
  const auto expected = lines_of(metrics_path(run("whole"), 0), "train");
  ASSERT_EQ(lines.size(), expected.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].at("step"), i + 1);
    EXPECT_EQ(lines[i].at("loss"), expected[i].at("loss"));
    EXPECT_EQ(lines[i].at("grad_norm"), expected[i].at("grad_norm"));
  }
}

TEST_F(TrainerTest, TheResolvedRecipeReproducesTheRun) {
  train_well({.toml = text(),
              .overrides = {"mesh.replicas=2", "sync.name=zero1", "optimizer.lr=0.02"},
              .folder = run("first")});
  const std::string resolved = file_bytes(run("first") / "recipe.toml");
  EXPECT_THAT(resolved, HasSubstr("lr = 0.02  # --optimizer.lr"));
  train_well({.toml = resolved, .overrides = {}, .folder = run("second")});
  EXPECT_EQ(model_bytes(run("second")), model_bytes(run("first")));
}

TEST_F(TrainerTest, SummaryHasTheKeysThatJsonPrints) {
  const Summary summary = train_well({.toml = images(), .overrides = {}, .folder = run("images")});
  const auto json = summary.to_json();
  for (const char* key : {"run", "steps", "validation_loss", "accuracy", "samples_per_second",
                          "train_seconds", "peak_memory_bytes", "bytes_sent", "overlap_fraction"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json.at("steps"), 6);
  EXPECT_FALSE(json.contains("tokens_per_second"));
}

TEST_F(TrainerTest, ARunBeyondTheRecipesLastStepIsNotResumed) {
  train_well({.toml = text(), .overrides = {}, .folder = run("done")});
  const auto outcomes = testing::train(
      {.toml = text(), .overrides = {"train.steps=5"}, .folder = run("done"), .resume = true});
  EXPECT_THAT(outcomes[0].error, HasSubstr("is of step 8, beyond train.steps = 5"));
}

TEST_F(TrainerTest, TrainingStartsFromTheWeightsOfAFolderAndResumesWithoutIt) {
  const auto start = folder_.path() / "start";
  testing::on_world({.toml = text(), .overrides = {"train.seed=5"}, .folder = {}},
                    [&](Recipe&, Assembly& assembly) {
                      nn::write_folder(start, *assembly.model, *assembly.params);
                      return Summary{};
                    });
  // A rate that is 0 as a float32.
  WorldRun wanted{.toml = text(),
                  .overrides = {"train.seed=6", "train.steps=3", "optimizer.lr=1e-300",
                                "model.start_from=" + start.string()},
                  .folder = run("started")};
  train_well(wanted);
  EXPECT_EQ(model_bytes(run("started")), file_bytes(start / "model.safetensors"));

  std::filesystem::remove_all(start);
  wanted.overrides[1] = "train.steps=4";
  wanted.resume = true;
  EXPECT_EQ(train_well(wanted).steps, 4);
}

TEST_F(TrainerTest, WeightsToStartFromThatDoNotFitAreRefusedOnEveryRank) {
  const auto start = folder_.path() / "start";
  testing::on_world({.toml = text(), .overrides = {}, .folder = {}},
                    [&](Recipe&, Assembly& assembly) {
                      nn::write_folder(start, *assembly.model, *assembly.params);
                      return Summary{};
                    });
  const auto error_with = [&](const std::string& override) {
    const auto outcomes = testing::train(
        {.toml = text(),
         .overrides = {"mesh.replicas=2", "model.start_from=" + start.string(), override},
         .folder = run("refused")});
    EXPECT_EQ(outcomes[0].error, outcomes[1].error);
    return outcomes[0].error;
  };
  EXPECT_THAT(error_with("model.n_inner=24"),
              AllOf(StartsWith("data error: "), HasSubstr("mlp.c_fc"), HasSubstr("shape")));
  EXPECT_THAT(error_with("model.start_from=nowhere"),
              AllOf(StartsWith("data error: "), HasSubstr("nowhere")));
}

TEST_F(TrainerTest, ARunIsTrainedByOneProcessAtATime) {
  WorldRun wanted{.toml = text(), .overrides = {"mesh.replicas=2"}, .folder = run("taken")};
  {
    const RunLock other(run("taken"));
    for (const auto& outcome : testing::train(wanted)) {
      EXPECT_THAT(outcome.error, AllOf(StartsWith("data error: "), HasSubstr("taken is being"),
                                       HasSubstr("trained by another process")));
    }
    EXPECT_FALSE(std::filesystem::exists(run("taken") / "recipe.toml"));
  }
  EXPECT_TRUE(train_well(wanted).finished);
  wanted.resume = true;
  EXPECT_TRUE(train_well(wanted).finished) << "the lock goes with its holder";
}

TEST_F(TrainerTest, NoTrainLossWhereNothingWasTrained) {
  WorldRun wanted{.toml = text(), .overrides = {}, .folder = run("done")};
  EXPECT_GT(train_well(wanted).train_loss, 0.5);
  wanted.resume = true;
  const Summary again = train_well(wanted);
  EXPECT_EQ(again.steps, 8);
  EXPECT_FALSE(again.train_loss.has_value());
  EXPECT_FALSE(again.to_json().contains("train_loss"));
}

TEST_F(TrainerTest, AResumeBeforeTheFirstCheckpointStartsAnew) {
  train_well({.toml = text(), .overrides = {}, .folder = run("whole")});
  train_well({.toml = text(), .overrides = {}, .folder = run("anew"), .resume = true});
  EXPECT_EQ(model_bytes(run("anew")), model_bytes(run("whole")));
}

}  // namespace
}  // namespace outstep::train
