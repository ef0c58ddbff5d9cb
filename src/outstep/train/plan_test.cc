#include "outstep/train/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/base/memory.h"
#include "outstep/train/test_world.h"
#include "outstep/train/trainer.h"

namespace outstep::train {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryFolder;

class PlanTest : public ::testing::Test {
 protected:
  PlanTest() {
    memory::install();
    at::set_num_threads(1);
    testing::write_text_data(folder_.path() / "words.txt");
    testing::write_image_data(folder_.path() / "images");
  }
  // Large enough that what matters is tensors, not odds and ends.
  std::string text() const { return testing::text_recipe(folder_.path() / "words.txt"); }
  std::string images() const { return testing::image_recipe(folder_.path() / "images"); }

  static Plan plan_of(const std::string& toml, const std::vector<std::string>& overrides,
                      const PlanOptions& options = {}) {
    Recipe recipe = read_recipe_text(toml, "test.toml", overrides);
    return make_plan(recipe, {}, options);
  }

  TemporaryFolder folder_;
};

TEST_F(PlanTest, MemoryIsWhatTheCounterSeesInTraining) {
  const std::vector<std::string> larger = {"model.n_embd=64", "model.n_positions=64",
                                           "engine.micro_batch=8", "evaluation.max_batches=2"};
  for (const std::string& toml : {text(), images()}) {
    const bool is_text = toml == text();
    const auto overrides = is_text ? larger : std::vector<std::string>{"model.width=8"};
    const Plan plan = plan_of(toml, overrides);
    const int64_t before = memory::live_bytes();
    const Summary summary = testing::train_well(
        {.toml = toml, .overrides = overrides, .folder = folder_.path() / (is_text ? "t" : "i")});
    const double seen = static_cast<double>(summary.peak_memory_bytes - before);
    EXPECT_NEAR(static_cast<double>(plan.total_bytes()) / seen, 1, 0.05) << plan.to_json().dump(2);
  }
}

TEST_F(PlanTest, TrafficIsWhatARankSends) {
  for (const std::string sync : {"ddp", "zero1", "acco", "dpu"}) {
    for (const std::string replicas : {"2", "3", "4"}) {
      std::vector<std::string> overrides = {"mesh.replicas=" + replicas, "sync.name=" + sync};
      if (sync == "acco" || sync == "dpu") {
        overrides.push_back("sync.counts=fixed");
        overrides.push_back("train.accumulation=2");
      }
      const Plan plan = plan_of(text(), overrides);
      const Summary summary = testing::train_well(
          {.toml = text(), .overrides = overrides, .folder = folder_.path() / (sync + replicas)});
      EXPECT_EQ(plan.bytes_sent_per_step * summary.steps, summary.bytes_sent) << sync << replicas;
    }
  }
  EXPECT_EQ(plan_of(text(), {}).bytes_sent_per_step, 0);
}

TEST_F(PlanTest, ZeroShardsTheOptimizer) {
  const auto optimizer_bytes = [&](const char* replicas) {
    return static_cast<double>(
        plan_of(text(), {std::string("mesh.replicas=") + replicas, "sync.name=zero1"})
            .optimizer_bytes);
  };
  EXPECT_NEAR(optimizer_bytes("4") / optimizer_bytes("1"), 0.25, 0.02);
}

TEST_F(PlanTest, ALinkAddsWhatCannotBeHidden) {
  const std::vector<std::string> overrides = {"mesh.replicas=2", "sync.name=zero1"};
  const Plan plan = plan_of(text(), overrides, {.link_bits_per_second = 8e6});
  EXPECT_DOUBLE_EQ(plan.communication_seconds, static_cast<double>(plan.bytes_sent_per_step) / 1e6);
  EXPECT_GE(plan.step_seconds, plan.compute_seconds);
  EXPECT_LE(plan.step_seconds, plan.compute_seconds + plan.communication_seconds + 1e-9);
}

TEST_F(PlanTest, NeedsNoData) {
  const Plan plan = plan_of(text(), {"data.path=nowhere.txt"});
  EXPECT_THAT(plan.missing_data, HasSubstr("\"nowhere.txt\", but nothing is there"));
  EXPECT_EQ(plan.to_json().at("is_data_here"), false);
  EXPECT_EQ(plan_of(text(), {}).missing_data, "");
  EXPECT_EQ(plan.num_parameters, plan_of(text(), {}).num_parameters);
  EXPECT_GT(plan.activation_bytes, 0);
  const Plan of_images = plan_of(images(), {"data.path=nowhere"});
  EXPECT_EQ(of_images.num_parameters, plan_of(images(), {}).num_parameters);
}

TEST_F(PlanTest, NeedsNoWeightsToStartFrom) {
  const Plan plan = plan_of(text(), {"model.start_from=nowhere"});
  EXPECT_EQ(plan.num_parameters, plan_of(text(), {}).num_parameters);
}

// How large a model is depends on its vocabulary: there is no guessing it.
TEST_F(PlanTest, NeedsTheVocabularyOfAText) {
  EXPECT_THROW(plan_of(text(), {"data.path=nowhere.txt", "data.tokenizer=gpt2"}), DataError);
  EXPECT_THROW(plan_of(text(), {"data.tokenizer=nowhere"}), DataError);
}

TEST_F(PlanTest, MeasuresNothingWhenToldSo) {
  const Plan plan = plan_of(text(), {}, {.measure = false});
  EXPECT_EQ(plan.activation_bytes, 0);
  EXPECT_EQ(plan.compute_seconds, 0);
  EXPECT_GT(plan.optimizer_bytes, 0);
}

}  // namespace
}  // namespace outstep::train
