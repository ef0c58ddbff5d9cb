#include "outstep/train/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/base/memory.h"
#include "outstep/train/test_world.h"
#include "outstep/train/trainer.h"

namespace outstep::train {
namespace {

using ::testing::ElementsAre;
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

// Of all ways of mixing, the recipe's first; WASH below PAPA.
TEST_F(PlanTest, KnowsWhatEachWayOfMixingSends) {
  const Plan plan = plan_of(images(), {"mesh.members=3", "ensemble.name=wash"}, {.measure = false});
  ASSERT_EQ(plan.mixings.size(), 9);
  EXPECT_EQ(plan.mixings[0].name, "wash");
  EXPECT_TRUE(plan.mixings[0].is_recipes);
  std::map<std::string, double> bytes;
  for (const auto& mixing : plan.mixings) bytes[mixing.name] = mixing.bytes_per_step;
  EXPECT_EQ(bytes["none"], 0);
  EXPECT_GT(bytes["wash"], 0);
  EXPECT_LT(bytes["wash"], bytes["papa"] / 100);
  EXPECT_LT(bytes["papa_all"], bytes["papa"]);
  EXPECT_EQ(bytes["wash_opt"], 2 * bytes["wash"]);  // with SGD's momentum
  EXPECT_EQ(plan.bytes_sent_per_step, std::llround(bytes["wash"]));
  // The two of them with the recipe's p.
  const Plan denser =
      plan_of(images(), {"mesh.members=3", "ensemble.name=wash_opt", "ensemble.p=0.1"},
              {.link_bits_per_second = 1e6, .measure = false});
  EXPECT_GT(denser.mixings[0].bytes_per_step, 50 * bytes["wash_opt"]);
  for (const auto& mixing : denser.mixings) {
    if (mixing.name != "wash") continue;
    EXPECT_NEAR(mixing.bytes_per_step, denser.mixings[0].bytes_per_step / 2, 1e-6);
  }
  EXPECT_NEAR(denser.communication_seconds, denser.mixings[0].bytes_per_step * 8 / 1e6, 1e-9);
  EXPECT_EQ(plan.to_json()["mixings"].size(), 9);
  EXPECT_TRUE(plan_of(images(), {"ensemble.name=wash"}, {.measure = false}).mixings.empty());
}

// Of stages that run freely, credits bound delay and copies; of modes that flush beside them, not.
TEST_F(PlanTest, FreeStagesHaveAsManyInFlightAsCredits) {
  const auto pipeline_of = [&](const std::vector<std::string>& more) {
    std::vector<std::string> overrides = {"model.name=revnet18", "mesh.stages=3",
                                          "engine.stages=[3, 4, 3]", "engine.name=pipedream"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    return *plan_of(images(), overrides, {.measure = false}).pipeline;
  };
  const PipelinePlan ticks = pipeline_of({}),
                     free = pipeline_of({"engine.pace=free", "engine.credits=8"});
  for (size_t s = 0; s < 3; ++s) {
    const int64_t ticks_late[] = {4, 2, 0}, free_late[] = {7, 7, 0};
    EXPECT_EQ(ticks.stages[s].delay_ticks, ticks_late[s]);
    EXPECT_EQ(free.stages[s].delay_ticks, free_late[s]);
    const int64_t copies = s < 2 ? 8 : 0;
    EXPECT_EQ(free.stages[s].bytes.stashed, copies * free.stages[s].bytes.parameters);
  }
  for (size_t m = 0; m < ticks.modes.size(); ++m) {
    const PipelinePlan::Mode &of_ticks = ticks.modes[m], &of_free = free.modes[m];
    if (engine::pipeline_mode(of_ticks.name).flushes()) {
      EXPECT_EQ(of_free.stage_bytes, of_ticks.stage_bytes) << of_ticks.name;
    }
  }
}

class StagesPlanTest : public PlanTest {
 protected:
  static std::vector<std::string> with(std::vector<std::string> overrides,
                                       const std::vector<std::string>& more) {
    overrides.insert(overrides.end(), more.begin(), more.end());
    return overrides;
  }
  // Three stages of a narrow RevNet-18.
  static std::vector<std::string> stages(const std::vector<std::string>& more) {
    return with(
        {"model.name=revnet18", "mesh.stages=3", "engine.stages=[3, 4, 3]", "train.accumulation=2"},
        more);
  }
  // What each rank sends in a step of a full pipeline: steps 5 to 7.
  std::vector<int64_t> bytes_sent(const std::vector<std::string>& overrides) {
    std::vector<int64_t> bytes;
    for (const int64_t steps : {4, 7}) {
      const auto run = folder_.path() / ("run" + std::to_string(num_runs_++));
      const auto outcomes =
          testing::train({.toml = images(),
                          .overrides = with(overrides, {"train.steps=" + std::to_string(steps)}),
                          .folder = run});
      bytes.resize(outcomes.size());
      for (size_t rank = 0; rank < outcomes.size(); ++rank) {
        EXPECT_EQ(outcomes[rank].error, "");
        bytes[rank] += (steps == 4 ? -1 : 1) * outcomes[rank].summary.bytes_sent;
      }
    }
    for (int64_t& of_rank : bytes) of_rank /= 3;
    return bytes;
  }

  int num_runs_ = 0;
};

// Stages that rebuild have the output sent back to them, others not; a narrow one, a wide one.
TEST_F(StagesPlanTest, TrafficIsWhatEachStageSends) {
  const std::vector<std::vector<std::string>> cases = {
      {"engine.name=petra"},
      {"engine.name=petra", "engine.stages=[1, 4, 5]"},
      {"engine.name=petra", "engine.precision=fp64"},
      {"engine.name=petra", "engine.precision=bf16"},
      {"engine.name=pipedream"},
      {"engine.name=1f1b"},
      {"engine.name=petra", "model.name=resnet18"}};
  for (const auto& more : cases) {
    const auto overrides = stages(more);
    const Plan plan = plan_of(images(), overrides, {.measure = false});
    const auto sent = bytes_sent(overrides);
    for (size_t s = 0; s < 3; ++s) {
      const engine::StageTraffic& traffic = plan.pipeline->stages[s].sent;
      EXPECT_EQ(2 * (traffic.to_next + traffic.to_previous), sent[s])
          << more.front() << " " << more.back() << ", stage " << s;
    }
    EXPECT_EQ(plan.bytes_sent_per_step, sent[0]);
  }
}

TEST_F(StagesPlanTest, ARankSendsForItsSyncToo) {
  const auto overrides = stages({"engine.name=petra", "mesh.replicas=2", "sync.name=ddp"});
  EXPECT_EQ(plan_of(images(), overrides, {.measure = false}).bytes_sent_per_step,
            bytes_sent(overrides)[0]);
}

TEST_F(StagesPlanTest, ALinkTakesTime) {
  const auto overrides = stages({"engine.name=petra"});
  const PlanOptions slow{.link_bits_per_second = 1e3};
  const Plan plan = plan_of(images(), overrides, slow);
  const engine::StageTraffic& traffic = plan.pipeline->stages[1].sent;
  // It sends both ways, and more than any other stage: all wait for its link.
  const double of_link = 8e-3 * static_cast<double>(traffic.to_next + traffic.to_previous);
  for (const PipelinePlan::Mode& mode : plan.pipeline->modes) {
    if (mode.name == "petra") {
      EXPECT_NEAR(mode.seconds_per_micro_batch / of_link, 1, 0.01);
    }
  }
  EXPECT_DOUBLE_EQ(plan.communication_seconds, 8e-3 * double(plan.bytes_sent_per_step));
  const auto json = plan.to_json().at("pipeline").at("stages").at(1);
  EXPECT_DOUBLE_EQ(json.at("to_next_seconds"), 8e-3 * double(traffic.to_next));
  EXPECT_EQ(json.at("to_previous_bytes"), traffic.to_previous);
  EXPECT_FALSE(plan_of(images(), overrides, {.measure = false})
                   .to_json()
                   .at("pipeline")
                   .at("stages")
                   .at(1)
                   .contains("to_next_seconds"));
}

// Unless it is told to measure: then all blocks are alike.
TEST_F(StagesPlanTest, CutsByTheUnitsThatItShows) {
  const Plan plan =
      plan_of(images(), stages({"engine.name=petra", "engine.stages=auto"}), {.measure = false});
  const std::vector<engine::BlockCost> costs(
      10, {.forward_seconds = 1, .backward_seconds = 2, .is_reversible = true});
  engine::Cut cut;
  for (const auto& stage : plan.pipeline->stages) {
    cut.push_back(stage.num_blocks);
    EXPECT_EQ(stage.forward_seconds, stage.num_blocks);
  }
  EXPECT_EQ(cut, engine::balanced_cut(costs, 3, engine::pipeline_mode("petra")));
}

TEST_F(StagesPlanTest, StalenessIsInUpdatesAndEndsAtAFlush) {
  const auto staleness = [&](const std::vector<std::string>& more) {
    const Plan plan =
        plan_of(images(), stages(with({"engine.name=petra"}, more)), {.measure = false});
    std::vector<double> updates;
    for (const auto& stage : plan.pipeline->stages) updates.push_back(stage.staleness);
    for (const auto& mode : plan.pipeline->modes) {
      const bool flushes = engine::pipeline_mode(mode.name).flushes();
      EXPECT_EQ(mode.staleness, flushes ? 0 : updates.front()) << mode.name;
    }
    return updates;
  };
  EXPECT_THAT(staleness({}), ElementsAre(2, 1, 0));
  EXPECT_THAT(staleness({"engine.flush_every=1"}), ElementsAre(0, 0, 0));
  EXPECT_THAT(staleness({"engine.flush_every=2"}), ElementsAre(0.5, 0.5, 0));
}

TEST_F(StagesPlanTest, Float64IsTwiceAsLarge) {
  const auto bytes = [&](const std::string& precision) {
    return plan_of(images(), stages({"engine.name=petra", "engine.precision=" + precision}),
                   {.measure = false})
        .pipeline->modes.back()
        .stage_bytes;
  };
  const auto single = bytes("fp32"), twice = bytes("fp64");
  for (size_t s = 0; s < 3; ++s) EXPECT_EQ(twice[s], 2 * single[s]);
}

// Of GPipe, whose stages hold most at once: all of a step's graphs.
TEST_F(StagesPlanTest, MemoryOfGraphsIsWhatTheCounterSees) {
  const auto overrides = stages({"engine.name=gpipe", "train.accumulation=4", "model.width=16",
                                 "engine.micro_batch=8", "evaluation.every=0"});
  const Plan plan = plan_of(images(), overrides);
  int64_t planned = 0, graphs = 0;
  for (const auto& stage : plan.pipeline->stages) {
    planned += 2 * stage.bytes.parameters + stage.bytes.kept + stage.graph_bytes;
    planned += stage.bytes.parameters;  // the optimizer's momentum
    graphs += stage.graph_bytes;
  }
  const int64_t before = memory::live_bytes();
  const Summary summary = testing::train_well(
      {.toml = images(), .overrides = overrides, .folder = folder_.path() / "gpipe"});
  const double seen = static_cast<double>(summary.peak_memory_bytes - before);
  EXPECT_NEAR(static_cast<double>(planned) / seen, 1, 0.1) << plan.to_json().dump(2);
  EXPECT_GT(static_cast<double>(graphs) / seen, 0.5);
  // Without measuring it is said how many there are.
  const Plan counted = plan_of(images(), overrides, {.measure = false});
  EXPECT_THAT(counted.pipeline->modes.front().num_graphs, ElementsAre(4, 4, 4));
  EXPECT_THAT(counted.pipeline->modes.back().num_graphs, ElementsAre(0, 0, 1));
}

// A stage a block: the picture begins where all of them are busy.
TEST_F(StagesPlanTest, APictureOfManyStagesBeginsWhenTheyAreFull) {
  const Plan plan = plan_of(
      images(), {"model.name=revnet18", "mesh.stages=10", "engine.name=petra"}, {.measure = false});
  EXPECT_EQ(plan.pipeline->picture_from_seconds > 0, true);
  EXPECT_THAT(plan.pipeline->picture, HasSubstr("stage 0  B0"));
  EXPECT_EQ(plan_of(images(), stages({"engine.name=petra"}), {.measure = false})
                .pipeline->picture_from_seconds,
            0);
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

TEST_F(PlanTest, AStepIsWhatTheClockOfRoundsMakesOfIt) {
  const std::vector<std::string> acco = {"mesh.replicas=2", "sync.name=acco", "sync.k_max=3"};
  const Plan slow = plan_of(text(), acco, {.link_bits_per_second = 1e3});
  EXPECT_EQ(slow.micro_batches_per_step, 6);  // three a round, then it waits
  EXPECT_NEAR(slow.step_seconds / slow.communication_seconds, 1, 0.01);
  const Plan fast = plan_of(text(), acco, {.link_bits_per_second = 1e15});
  EXPECT_LT(fast.step_seconds, slow.step_seconds / 1000);
  const Plan fixed = plan_of(
      text(), {"mesh.replicas=2", "sync.name=dpu", "sync.counts=fixed", "train.accumulation=3"},
      {.link_bits_per_second = 1e15});
  EXPECT_EQ(fixed.micro_batches_per_step, 3);
  EXPECT_LE(fixed.compute_seconds, fixed.step_seconds + 1e-9);
}

std::vector<std::string> names_of(const std::vector<Forecast>& forecasts) {
  std::vector<std::string> names;
  for (const Forecast& forecast : forecasts) {
    names.push_back(forecast.sync + (forecast.is_recipes ? " *" : ""));
  }
  return names;
}

TEST_F(PlanTest, ComparesSyncsOnALink) {
  const auto of = [&](const std::vector<std::string>& overrides) {
    std::vector<std::string> all = {"mesh.replicas=2", "train.accumulation=2"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return plan_of(text(), all, {.link_bits_per_second = 1e6});
  };
  const Plan plan = of({"sync.name=zero1"});
  EXPECT_THAT(names_of(plan.comparison),
              ElementsAre("ddp", "zero1 *", "zero1 with overlap", "dpu with fixed counts",
                          "acco with fixed counts", "acco with dynamic counts"));
  EXPECT_EQ(plan.comparison[1].step_seconds(), plan.step_seconds);
  // What another sync is said to need is what it says itself.
  const Plan of_acco = of({"sync.name=acco", "sync.counts=fixed"});
  EXPECT_THAT(names_of(of_acco.comparison),
              ElementsAre("ddp", "zero1", "zero1 with overlap", "dpu with fixed counts",
                          "acco with fixed counts *"));
  for (size_t i = 0; i < of_acco.comparison.size(); ++i) {
    EXPECT_EQ(of_acco.comparison[i].memory_bytes, plan.comparison[i].memory_bytes);
    EXPECT_EQ(of_acco.comparison[i].bytes_sent_per_step, plan.comparison[i].bytes_sent_per_step);
  }
  EXPECT_EQ(of_acco.comparison.back().memory_bytes,
            of_acco.total_bytes() - of_acco.activation_bytes);
  EXPECT_THAT(names_of(of({"sync.name=wp"}).comparison).back(), "wp with dynamic counts *");

  const auto json = plan.to_json();
  EXPECT_EQ(json.at("comparison").size(), 6);
  EXPECT_GT(json.at("comparison").at(0).at("tokens_per_second"), 0);
  EXPECT_THAT(json.at("advice"), HasSubstr("× computing: acco with dynamic counts is "));
}

TEST_F(PlanTest, ComparesNothingWithoutALinkReplicasOrTimes) {
  EXPECT_TRUE(plan_of(text(), {"mesh.replicas=2"}).comparison.empty());
  EXPECT_TRUE(plan_of(text(), {}, {.link_bits_per_second = 1e6}).comparison.empty());
  const Plan plan =
      plan_of(text(), {"mesh.replicas=2"}, {.link_bits_per_second = 1e6, .measure = false});
  EXPECT_TRUE(plan.comparison.empty());
  EXPECT_FALSE(plan.to_json().contains("advice"));
}

TEST_F(PlanTest, ComparingDoesNotCountAsMemory) {
  const std::vector<std::string> overrides = {"mesh.replicas=2", "model.n_embd=64"};
  const auto with = plan_of(text(), overrides, {.link_bits_per_second = 1e6}).total_bytes();
  const auto without = plan_of(text(), overrides).total_bytes();
  EXPECT_NEAR(static_cast<double>(with) / static_cast<double>(without), 1, 0.02);
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

// Property 13 of acco, and of those that share its rounds.
using Acco13 = PlanTest;

TEST_F(Acco13, PeakMemoryIsWhatPlanSaysOfTheMethodsOfRounds) {
  for (const std::string sync : {"acco", "dpu", "wp"}) {
    for (const std::string counts : {"fixed", "dynamic"}) {
      const std::vector<std::string> overrides = {"model.n_embd=128",     "model.n_positions=32",
                                                  "engine.micro_batch=4", "train.accumulation=2",
                                                  "sync.name=" + sync,    "sync.counts=" + counts};
      const Plan plan = plan_of(text(), overrides);
      const int64_t before = memory::live_bytes();
      const Summary summary = testing::train_well(
          {.toml = text(), .overrides = overrides, .folder = folder_.path() / (sync + counts)});
      const double seen = static_cast<double>(summary.peak_memory_bytes - before);
      EXPECT_NEAR(static_cast<double>(plan.total_bytes()) / seen, 1, 0.05)
          << sync << " " << counts << "\n"
          << plan.to_json().dump(2);
    }
  }
}

// Ψ parameters, N = 4 ranks, AdamW's 8 bytes of state an element: docs/methods/acco.md, dpu.md.
TEST_F(Acco13, MemoryBesideActivationsIsTheFormulas) {
  const std::pair<std::string, double> cases[] = {{"zero1", 8 + 8 / 4.0},
                                                  {"dpu", 12 + 12 / 4.0},
                                                  {"wp", 12 + 16 / 4.0},
                                                  {"acco", 12 + 16 / 4.0}};
  for (const auto& [sync, bytes_per_parameter] : cases) {
    const Plan plan = plan_of(text(), {"model.n_embd=128", "mesh.replicas=4", "sync.name=" + sync},
                              {.measure = false});
    const double bytes = static_cast<double>(plan.total_bytes());
    EXPECT_NEAR(bytes / static_cast<double>(plan.num_parameters) / bytes_per_parameter, 1, 0.05)
        << sync;
  }
}

}  // namespace
}  // namespace outstep::train
