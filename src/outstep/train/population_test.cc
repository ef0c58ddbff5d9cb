#include "outstep/train/population.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "outstep/io/files.h"
#include "outstep/io/safetensors.h"
#include "outstep/train/test_population.h"

// Populations in whole runs: what mixes and what does not, with replicas and stages, stopped,
// resumed and with a member lost. What a run comes to: population_end_test.cc.

namespace outstep::train {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// Nothing is mixed: each member is the run of one model with its own seed.
TEST_F(PopulationTest, Spec8WithoutMixingMembersAreRunsByThemselves) {
  const Overrides population = {"mesh.members=3", "ensemble.init=independent"};
  train(images(), with(population, {"ensemble.name=none"}), "none");
  train(images(), with(population, {"ensemble.name=wash", "ensemble.p=0"}), "p0");
  for (int member = 0; member < 3; ++member) {
    const std::string name = "alone-" + std::to_string(member);
    const uint64_t seed = member_seed(1, member);
    train(images(), {"train.seed=" + std::to_string(seed)}, name);
    EXPECT_EQ(member_bytes("none", 3, member), member_bytes(name, 1, 0)) << member;
    EXPECT_EQ(member_bytes("p0", 3, member), member_bytes(name, 1, 0)) << member;
  }
}

// N = 1: there is nobody to mix with.
TEST_F(PopulationTest, OneMemberIsNoPopulation) {
  train(text(), {"ensemble.name=none"}, "none");
  const Summary summary = train(text(), {"ensemble.name=wash", "ensemble.p=1"}, "wash");
  EXPECT_EQ(member_bytes("wash", 1, 0), member_bytes("none", 1, 0));
  EXPECT_FALSE(summary.population);
  EXPECT_EQ(summary.bytes_sent, 0);
}

TEST_F(PopulationTest, MembersBeginAlikeAndSeeTheDataInOrdersOfTheirOwn) {
  std::vector<at::Tensor> values(2);
  std::vector<at::Tensor> batches(2);
  for (const std::string init : {"same", "independent"}) {
    testing::on_world(
        {.toml = images(), .overrides = {"mesh.members=2", "ensemble.init=" + init}, .folder = {}},
        [&](Recipe&, Assembly& assembly) {
          const auto member = static_cast<size_t>(assembly.place.member);
          values[member] = assembly.params->values().clone();
          batches[member] = assembly.stream->next().inputs.clone();
          return Summary{};
        });
    EXPECT_EQ(at::equal(values[0], values[1]), init == "same");
    EXPECT_FALSE(at::equal(batches[0], batches[1]));
  }
}

TEST_F(PopulationTest, AShuffleOfAllLayersKeepsWhatMembersHaveTogether) {
  const Overrides population = {"mesh.members=3", "train.steps=1"};
  train(images(), population, "apart");
  train(images(),
        with(population, {"ensemble.name=wash", "ensemble.p=0.5", "ensemble.depth=constant"}),
        "mixed");
  const auto sorted = [&](const std::string& name, const std::string& tensor) {
    std::vector<at::Tensor> members;
    for (int m = 0; m < 3; ++m) members.push_back(weight(name, 3, m, tensor).flatten());
    return std::get<0>(at::stack(members).sort(0));
  };
  for (const std::string tensor : {"conv1.weight", "bn1.weight", "fc.weight"}) {
    EXPECT_TRUE(at::equal(sorted("apart", tensor), sorted("mixed", tensor))) << tensor;
  }
  const std::string weights = "conv1.weight";
  EXPECT_FALSE(at::equal(weight("apart", 3, 0, weights), weight("mixed", 3, 0, weights)));
  // Buffers are each member's own.
  const std::string statistics = "bn1.running_mean";
  EXPECT_TRUE(at::equal(weight("apart", 3, 1, statistics), weight("mixed", 3, 1, statistics)));
}

TEST_F(PopulationTest, AllOfTheFamilyRunsAndResumes) {
  for (const std::string method :
       {"wash", "wash_opt", "papa", "papa_all", "papa_2", "dart", "sparta", "noloco"}) {
    Overrides overrides = {"mesh.members=3", "ensemble.name=" + method, "ensemble.interval=2",
                           "evaluation.every=2"};
    if (method.starts_with("wash") || method == "sparta") overrides.push_back("ensemble.p=0.3");
    // Averages of all end alike if the last step averages.
    overrides.push_back("ensemble.stop_step=5");
    expect_resumes(images(), overrides, method, 3);
  }
}

TEST_F(PopulationTest, ADelayedShuffleResumesWithWhatIsOnItsWay) {
  expect_resumes(
      images(), {"mesh.members=3", "ensemble.name=wash", "ensemble.p=0.3", "ensemble.delayed=true"},
      "delayed", 3);
}

// Replicas and stages do the same shuffle, each of what it holds; the sync's own copies follow.
TEST_F(PopulationTest, Show4WashOverEverySyncAndOverPetra) {
  const Overrides wash = {"mesh.members=2", "ensemble.name=wash", "ensemble.p=0.2",
                          "train.accumulation=2"};
  for (const std::string sync : {"ddp", "zero1", "acco", "dpu", "wp"}) {
    Overrides overrides = with(wash, {"mesh.replicas=2", "sync.name=" + sync});
    if (sync == "zero1") overrides.push_back("sync.overlap=true");
    if (sync != "ddp" && sync != "zero1") overrides.push_back("sync.counts=fixed");
    expect_resumes(text(), overrides, sync, 2);
    const Overrides with_moments = with(overrides, {"ensemble.name=wash_opt"});
    expect_resumes(text(), with_moments, sync + "-opt", 2);
  }
  EXPECT_EQ(member_bytes("ddp", 2, 1), member_bytes("zero1", 2, 1));
  EXPECT_EQ(member_bytes("ddp-opt", 2, 1), member_bytes("zero1-opt", 2, 1));
  EXPECT_NE(member_bytes("ddp", 2, 1), member_bytes("ddp-opt", 2, 1));
  // An acco that waits is zero1 also where its shards' own copies have to follow the shuffle.
  train(text(),
        with(wash, {"mesh.replicas=2", "sync.name=acco", "sync.counts=fixed",
                    "sync.synchronous_steps=100"}),
        "acco-waiting");
  EXPECT_EQ(member_bytes("acco-waiting", 2, 1), member_bytes("ddp", 2, 1));
  expect_resumes(text(),
                 with(wash, {"model.name=revgpt", "mesh.stages=2", "engine.stages=[3, 3]",
                             "engine.name=petra"}),
                 "petra", 2);
}

// A stage shuffles its layers as a whole model would.
TEST_F(PopulationTest, StagesShuffleLikeOneProcess) {
  const Overrides wash = {"mesh.members=2", "ensemble.name=wash", "ensemble.p=0.2",
                          "model.name=revnet18", "train.accumulation=2"};
  train(images(), wash, "whole");
  train(images(), with(wash, {"mesh.stages=3", "engine.stages=[3, 4, 3]", "engine.name=gpipe"}),
        "staged");
  for (int member = 0; member < 2; ++member) {
    EXPECT_EQ(member_bytes("whole", 2, member), member_bytes("staged", 2, member));
  }
  const auto average = [&](const std::string& name) {
    const auto file = folder_.path() / name / "average" / "model.safetensors";
    const io::Safetensors tensors(file);
    std::vector<at::Tensor> all;
    for (const auto& [tensor, info] : tensors.tensors()) {
      all.push_back(tensors.tensor(tensor).flatten());
    }
    return at::cat(all);
  };
  EXPECT_TRUE(at::equal(average("whole"), average("staged")));
}

// Blocks that begin with a norm, which belongs to the last layer of the stage before.
TEST_F(PopulationTest, ACutThroughALayerShufflesLikeOneProcess) {
  const Overrides wash = {
      "mesh.members=2",    "ensemble.name=wash", "ensemble.p=0.5", "ensemble.depth=constant",
      "model.name=revgpt", "train.clip_norm=0"};  // a norm over stages is another sum
  train(text(), wash, "whole");
  train(text(), with(wash, {"mesh.stages=2", "engine.stages=[3, 3]", "engine.name=gpipe"}),
        "staged");
  for (int member = 0; member < 2; ++member) {
    EXPECT_TRUE(member_bytes("whole", 2, member) == member_bytes("staged", 2, member)) << member;
  }
}

// Under keys of its own: bytes_sent is what updates sent.
TEST_F(PopulationTest, WhatEvaluatingSendsIsInItsLines) {
  train(images(), {"mesh.members=3", "evaluation.every=3"}, "run");
  std::istringstream lines(io::read_text(folder_.path() / "run" / "metrics" / "rank-0.jsonl"));
  std::map<std::string, std::vector<nlohmann::json>> by_kind;
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::json::parse(line);
    by_kind[json["kind"]].push_back(std::move(json));
  }
  const auto model_bytes = 4 * by_kind["start"].at(0)["parameters"].get<int64_t>();
  const auto& validations = by_kind["validation"];
  ASSERT_EQ(validations.size(), 2);
  for (const auto& line : validations) EXPECT_GE(line["evaluation_bytes_sent"], model_bytes);
  EXPECT_EQ(validations[0]["evaluation_bytes_sent"], validations[1]["evaluation_bytes_sent"]);
  const auto& population = by_kind["population"].at(0);
  EXPECT_GT(population["population_bytes_sent"], 2 * model_bytes);
  EXPECT_EQ(population["consensus_distance"], validations[1]["consensus_distance"]);
  EXPECT_EQ(by_kind["train"].back()["bytes_sent"], 0);
}

TEST_F(PopulationTest, AnotherNumberOfMembersIsRefused) {
  train(images(), {"mesh.members=2", "train.steps=2"}, "run");
  const auto outcomes = testing::train({.toml = images(),
                                        .overrides = {"mesh.members=3"},
                                        .folder = folder_.path() / "run",
                                        .resume = true});
  for (const auto& outcome : outcomes) {
    EXPECT_THAT(outcome.error, HasSubstr("saved by members 0, 1, not by member 2"));
  }
}

// Each member keeps its number: seeds, folders, lines and what the end of the run says.
TEST_F(PopulationTest, SurvivorsOfALossGoOnAsThemselves) {
  const Overrides population = {"mesh.members=3", "ensemble.name=none"};
  const Overrides saving = with(population, {"checkpoint.every=3", "checkpoint.keep=9"});
  train(images(), saving, "whole");
  train(images(), saving, "run");
  drop_checkpoints_after("run", 3);
  const Summary summary = train(images(), with(saving, {"ensemble.lost=[1]"}), "run", true);
  // Nothing is mixed, so they are what they would have been.
  for (const int member : {0, 2}) {
    EXPECT_EQ(member_bytes("run", 2, member), member_bytes("whole", 3, member)) << member;
  }
  EXPECT_EQ(summary.lost_members, std::vector<int>{1});
  EXPECT_EQ(summary.to_json()["lost_members"], nlohmann::json({1}));
  ASSERT_TRUE(summary.population);
  EXPECT_EQ(summary.population->member_ids, (std::vector<int>{0, 2}));
  EXPECT_EQ(summary.population->to_json()["members"][1]["member"], 2);
  const io::Safetensors average(summary.population->average_folder / "model.safetensors");
  const auto soup = nlohmann::json::parse(average.metadata().at("soup"));
  EXPECT_EQ(soup["ingredients"][1]["member"], 2);
  EXPECT_EQ(soup["ingredients"][1]["seed"], member_seed(1, 2));
  // The record of rank 1 goes on as member 2's; that of rank 2 ends where the run was left.
  const auto last_line = [&](int rank) {
    const std::string text = io::read_text(folder_.path() / "run" / "metrics" /
                                           ("rank-" + std::to_string(rank) + ".jsonl"));
    std::istringstream lines(text);
    nlohmann::json last;
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json["kind"] == "train") last = json;
    }
    return last;
  };
  EXPECT_EQ(last_line(1)["member"], 2);
  EXPECT_EQ(last_line(1)["step"], 6);
  EXPECT_EQ(last_line(2)["step"], 3);
  // What is lost stays lost.
  const auto outcomes = testing::train({.toml = images(),
                                        .overrides = with(population, {"ensemble.lost=[2]"}),
                                        .folder = folder_.path() / "run",
                                        .resume = true});
  for (const auto& outcome : outcomes) {
    EXPECT_THAT(outcome.error, HasSubstr("saved by members 0, 2, not by member 1"));
  }
}

TEST_F(PopulationTest, TheSameSurvivorsOfTheSameCheckpointAreTheSameRun) {
  for (const Overrides& method :
       {Overrides{"ensemble.delayed=true"}, Overrides{"mesh.replicas=2", "sync.name=zero1"},
        Overrides{"ensemble.name=wash_opt"}, Overrides{"ensemble.name=papa"}}) {
    const std::string name = method.back();
    Overrides overrides = with({"mesh.members=3", "ensemble.name=wash", "ensemble.interval=1",
                                "checkpoint.every=3", "checkpoint.keep=9"},
                               method);
    if (name != "ensemble.name=papa") overrides.push_back("ensemble.p=0.3");
    train(text(), overrides, name);
    drop_checkpoints_after(name, 3);
    fs::copy(folder_.path() / name, folder_.path() / (name + "-again"),
             fs::copy_options::recursive);
    overrides.push_back("ensemble.lost=[0]");
    const Summary first = train(text(), overrides, name, true);
    const Summary second = train(text(), overrides, name + "-again", true);
    EXPECT_TRUE(first.finished && second.finished);
    for (const int member : {1, 2}) {
      EXPECT_EQ(member_bytes(name, 2, member), member_bytes(name + "-again", 2, member)) << name;
    }
    EXPECT_TRUE(member_bytes(name, 2, 1) != member_bytes(name, 2, 2)) << name;
  }
}

// The one that is left is a run of one model, which mixes nothing, and keeps its number.
TEST_F(PopulationTest, OneSurvivorIsNoPopulation) {
  const Overrides population = {"mesh.members=3", "ensemble.name=none", "ensemble.init=independent",
                                "checkpoint.every=3", "checkpoint.keep=9"};
  train(images(), population, "whole");
  train(images(), population, "run");
  drop_checkpoints_after("run", 3);
  const Overrides alone = with(population, {"ensemble.name=wash", "ensemble.lost=[0, 1]"});
  const Summary summary = train(images(), alone, "run", true);
  EXPECT_FALSE(summary.population);
  EXPECT_EQ(member_bytes("run", 1, 2), member_bytes("whole", 3, 2));
  drop_checkpoints_after("run", 3);
  const Summary again = train(images(), alone, "run", true);
  EXPECT_EQ(again.validation_loss, summary.validation_loss);
}

TEST_F(PopulationTest, StopsAtOneStepOnAllMembers) {
  std::atomic<bool> stop = false;
  const auto outcomes = testing::train(
      {.toml = text(),
       .overrides = {"mesh.members=3", "ensemble.name=wash", "train.steps=5000"},
       .folder = folder_.path() / "stopped",
       .stop = &stop,
       .on_progress = [&](int, const Progress& progress) { stop = progress.step >= 3; }});
  for (const auto& outcome : outcomes) {
    EXPECT_EQ(outcome.error, "");
    EXPECT_FALSE(outcome.summary.finished);
    EXPECT_EQ(outcome.summary.steps, outcomes[0].summary.steps);
    EXPECT_FALSE(outcome.summary.population);
  }
}

// The lines of each rank are its member's; a line of validation knows how far members are apart.
TEST_F(PopulationTest, LinesTellMembersApart) {
  train(images(), {"mesh.members=2", "ensemble.name=wash", "ensemble.p=0.2", "train.steps=2"},
        "run");
  for (int rank = 0; rank < 2; ++rank) {
    const std::string text = io::read_text(folder_.path() / "run" / "metrics" /
                                           ("rank-" + std::to_string(rank) + ".jsonl"));
    std::istringstream lines(text);
    int num_checked = 0;
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json["kind"] == "train") {
        EXPECT_EQ(json["member"], rank);
        EXPECT_GT(json["mix/bytes_sent"], 0);
        EXPECT_NEAR(json["mix/moved_fraction"], 0.2 * 0.5 * 0.3, 0.03);
        ++num_checked;
      } else if (json["kind"] == "validation") {
        EXPECT_GT(json["consensus_distance"], 0);
        ++num_checked;
      }
    }
    EXPECT_EQ(num_checked, 3);
  }
}

}  // namespace
}  // namespace outstep::train
