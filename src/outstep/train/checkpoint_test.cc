#include "outstep/train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/io/files.h"
#include "outstep/train/agree.h"
#include "outstep/train/state_file.h"
#include "outstep/train/test_world.h"
#include "outstep/train/trainer.h"

namespace outstep::train {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::file_bytes;
using ::testing::HasSubstr;
using testing::model_bytes;
using testing::Outcome;
using ::testing::StartsWith;
using testing::TemporaryFolder;
using testing::train_well;
using testing::WorldRun;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    at::set_num_threads(1);
    testing::write_text_data(folder_.path() / "words.txt");
    testing::write_image_data(folder_.path() / "images");
  }

  std::string text() const { return testing::text_recipe(folder_.path() / "words.txt"); }
  std::string images() const { return testing::image_recipe(folder_.path() / "images"); }
  fs::path run(const std::string& name) const { return folder_.path() / name; }
  fs::path checkpoint(const std::string& name, int64_t step) const {
    return run(name) / "checkpoints" / fmt::format("step-{:08}", step);
  }

  // Trains to the end and saves on the way, then throws away the end.
  void train_half(const std::string& name, const std::string& toml,
                  std::vector<std::string> overrides, int64_t half) {
    overrides.push_back(fmt::format("checkpoint.every={}", half));
    overrides.push_back("checkpoint.keep=9");
    train_well({.toml = toml, .overrides = overrides, .folder = run(name)});
    for (const CheckpointInfo& info : list_checkpoints(run(name))) {
      if (info.step > half) fs::remove_all(info.folder);
    }
  }

  // Every rank must fail alike; returns what they say.
  std::string common_error(const WorldRun& wanted) {
    const auto outcomes = testing::train(wanted);
    for (const Outcome& outcome : outcomes) EXPECT_EQ(outcome.error, outcomes.front().error);
    return outcomes.front().error;
  }

  TemporaryFolder folder_;
};

struct Case {
  std::string name;
  bool has_images = false;
  std::vector<std::string> overrides = {};
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class ResumeTest : public CheckpointTest, public ::testing::WithParamInterface<Case> {};

TEST_P(ResumeTest, SaveLoadContinueEqualsNotStoppingBitForBit) {
  const Case& c = GetParam();
  const std::string toml = c.has_images ? images() : text();
  train_well({.toml = toml, .overrides = c.overrides, .folder = run("whole")});
  train_half("half", toml, c.overrides, 3);
  ASSERT_EQ(list_checkpoints(run("half")).back().step, 3);
  const Summary rest =
      train_well({.toml = toml, .overrides = c.overrides, .folder = run("half"), .resume = true});
  EXPECT_TRUE(rest.finished);
  EXPECT_EQ(model_bytes(run("half")), model_bytes(run("whole")));
  // Not only the parameters: optimizer, data order, running statistics.
  const auto whole = list_checkpoints(run("whole")).back().folder;
  const auto half = list_checkpoints(run("half")).back().folder;
  for (const auto& entry : fs::directory_iterator(whole)) {
    const auto name = entry.path().filename();
    if (!name.string().starts_with("state-")) continue;
    EXPECT_EQ(file_bytes(half / name), file_bytes(whole / name)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Methods, ResumeTest,
    ::testing::Values(
        Case{"none", false, {}}, Case{"none_accumulating", false, {"train.accumulation=3"}},
        Case{"none_without_prefetch", false, {"data.prefetch=0"}},
        Case{"ddp", false, {"mesh.replicas=2", "sync.name=ddp"}},
        Case{"zero1", false, {"mesh.replicas=2", "sync.name=zero1"}},
        Case{"zero1_overlap",
             false,
             {"mesh.replicas=2", "sync.name=zero1", "sync.overlap=true", "sync.bucket_bytes=4096"}},
        Case{"zero1_on_three", false, {"mesh.replicas=3", "sync.name=zero1"}},
        Case{"images_none", true, {}}, Case{"images_bf16", true, {"engine.precision=bf16"}},
        Case{"images_ddp", true, {"mesh.replicas=2", "sync.name=ddp"}},
        Case{"images_zero1", true, {"mesh.replicas=2", "sync.name=zero1"}}),
    [](const auto& tested) { return tested.param.name; });

// The global batch stays the same: 4 micro-batches a step, on 2 then 4 then 1 replicas.
TEST_F(CheckpointTest, AnotherNumberOfReplicasGoesOnAsIfNothingHadHappened) {
  train_well({.toml = text(), .overrides = {"train.accumulation=4"}, .folder = run("one")});
  WorldRun wanted{.toml = text(), .overrides = {}, .folder = run("changing")};
  const auto overrides = [](const char* replicas, const char* accumulation, const char* sync,
                            const char* every) {
    return std::vector<std::string>{
        std::string("mesh.replicas=") + replicas, std::string("train.accumulation=") + accumulation,
        std::string("sync.name=") + sync, std::string("checkpoint.every=") + every};
  };
  const auto keep_until = [&](int64_t step) {
    for (const CheckpointInfo& info : list_checkpoints(run("changing"))) {
      if (info.step > step) fs::remove_all(info.folder);
    }
  };
  // One micro-batch a rank and step, or one rank: else sums over ranks are taken in another order.
  wanted.overrides = overrides("4", "1", "zero1", "2");
  train_well(wanted);
  keep_until(2);
  wanted.resume = true;
  wanted.overrides = overrides("1", "4", "none", "4");
  train_well(wanted);
  keep_until(4);
  wanted.overrides = overrides("4", "1", "ddp", "6");
  train_well(wanted);
  keep_until(6);
  wanted.overrides = overrides("4", "1", "zero1", "8");
  train_well(wanted);
  EXPECT_EQ(model_bytes(run("changing")), model_bytes(run("one")));
}

TEST_F(CheckpointTest, AnotherNumberOfReplicasTakesTheMeanOfRunningStatistics) {
  train_half("two", images(), {"mesh.replicas=2", "sync.name=ddp"}, 3);
  const Summary summary = train_well(
      {.toml = images(), .overrides = {"mesh.replicas=1"}, .folder = run("two"), .resume = true});
  EXPECT_EQ(summary.steps, 6);
}

TEST_F(CheckpointTest, KeepsTheNewestAndTheBest) {
  train_well({.toml = text(),
              .overrides = {"checkpoint.every=1", "evaluation.every=1", "checkpoint.keep=2",
                            "train.steps=6", "optimizer.lr=0.5"},
              .folder = run("kept")});
  const auto kept = list_checkpoints(run("kept"));
  ASSERT_GE(kept.size(), 2);
  ASSERT_LE(kept.size(), 3);
  EXPECT_EQ(kept.back().step, 6);
  EXPECT_EQ(kept[kept.size() - 2].step, 5);
  for (const auto& info : kept) EXPECT_TRUE(info.validation_loss.has_value());
  prune_checkpoints(run("kept"), 1, false);
  ASSERT_EQ(list_checkpoints(run("kept")).size(), 1);
  EXPECT_EQ(list_checkpoints(run("kept")).front().step, 6);
}

TEST_F(CheckpointTest, WhatAKilledRunLeftIsNeitherListedNorKept) {
  train_half("killed", text(), {}, 4);
  const fs::path torn = run("killed") / "checkpoints" / ".step-00000006";
  const fs::path without_done = checkpoint("killed", 6);
  fs::copy(checkpoint("killed", 4), torn);
  fs::copy(checkpoint("killed", 4), without_done);
  fs::remove(without_done / "DONE");
  ASSERT_EQ(list_checkpoints(run("killed")).size(), 1);
  train_well({.toml = text(), .overrides = {}, .folder = run("killed"), .resume = true});
  EXPECT_FALSE(fs::exists(torn));
  EXPECT_FALSE(fs::exists(without_done));
  EXPECT_EQ(list_checkpoints(run("killed")).back().step, 8);
}

TEST_F(CheckpointTest, PruningLeavesWhatIsTheUsers) {
  train_half("mixed", text(), {}, 2);  // leaves those of steps 2, 4, …
  const fs::path folder = run("mixed") / "checkpoints";
  const fs::path elsewhere = folder_.path() / "archive";
  fs::copy(checkpoint("mixed", 2), elsewhere);
  fs::create_directory_symlink(elsewhere, folder / "step-00000001");
  io::write_text_atomically(folder / "step-00000400.tar", "mine");
  io::write_text_atomically(folder / "step-00000400", "mine");
  for (const char* name : {"step-00000400.bak", "step-", "step-best", ".step-draft", ".step-1x"}) {
    fs::create_directories(folder / name);
  }
  const auto num_entries = [&] {
    return std::distance(fs::directory_iterator(folder), fs::directory_iterator());
  };
  const auto before = num_entries();
  fs::create_directories(folder / ".step-00000006");  // a killed run's
  prune_checkpoints(run("mixed"), 1, false);
  EXPECT_EQ(num_entries(), before);
  EXPECT_FALSE(fs::exists(folder / ".step-00000006"));
  EXPECT_TRUE(fs::exists(elsewhere / "DONE"));
}

TEST_F(CheckpointTest, AnAlteredFileIsRefusedOnEveryRank) {
  const std::vector<std::string> overrides = {"mesh.replicas=2", "sync.name=zero1"};
  train_half("altered", text(), overrides, 4);
  const fs::path file = checkpoint("altered", 4) / "state-00001.safetensors";
  std::string bytes = file_bytes(file);
  bytes[bytes.size() - 5] ^= 1;
  io::write_text_atomically(file, bytes);
  const WorldRun resumed{
      .toml = text(), .overrides = overrides, .folder = run("altered"), .resume = true};
  EXPECT_THAT(common_error(resumed),
              AllOf(StartsWith("data error: "), HasSubstr("state-00001.safetensors"),
                    HasSubstr("its SHA-256 is not the manifest's: the file was altered")));
  io::write_text_atomically(file, bytes.substr(0, bytes.size() - 1));
  EXPECT_THAT(common_error(resumed), HasSubstr("the file was cut off or replaced"));
  fs::remove(file);
  EXPECT_THAT(common_error(resumed), HasSubstr("No such file"));
}

TEST_F(CheckpointTest, ABrokenManifestIsRefused) {
  train_half("broken", text(), {}, 4);
  const fs::path file = checkpoint("broken", 4) / "manifest.json";
  const WorldRun resumed{.toml = text(), .overrides = {}, .folder = run("broken"), .resume = true};
  const std::string good = file_bytes(file);
  const auto error_with = [&](const std::string& manifest) {
    io::write_text_atomically(file, manifest);
    return common_error(resumed);
  };
  EXPECT_THAT(error_with("{\"format\": "), HasSubstr("manifest.json: not a manifest"));
  EXPECT_THAT(error_with("{}"), HasSubstr("manifest.json: not a manifest"));
  EXPECT_THAT(error_with("[1]"), HasSubstr("manifest.json: not a manifest"));
  std::string other = good;
  other.replace(other.find("model.safetensors"), 17, "../../../../passw");
  EXPECT_THAT(error_with(other), HasSubstr("is not the name of a file in it"));
  std::string later = good;
  later.replace(later.find("\"version\": 2"), 12, "\"version\": 7");
  EXPECT_THAT(error_with(later), HasSubstr("of version 7, this program reads version 2"));
  for (const char* members : {"[0, 1]", "[-1]", "[]", "[\"0\"]", "0"}) {
    std::string strange = good;
    const size_t begin = strange.find("\"members\": [");
    ASSERT_NE(begin, std::string::npos);
    strange.replace(begin, strange.find(']', begin) + 1 - begin,
                    fmt::format("\"members\": {}", members));
    EXPECT_THAT(error_with(strange), HasSubstr("manifest.json: not a manifest")) << members;
  }
  // Of more ranks than it has files, also where their number is beyond any integer.
  for (const char* size :
       {"2000000000", "4294967297", "9223372036854775807", "3.5", "1e300", "0"}) {
    std::string huge = good;
    const size_t begin = huge.find("\"replicas\": 1");
    ASSERT_NE(begin, std::string::npos);
    huge.replace(begin, 13, fmt::format("\"replicas\": {}", size));
    EXPECT_THAT(error_with(huge), HasSubstr("manifest.json: not a manifest")) << size;
  }
  nlohmann::ordered_json many = nlohmann::ordered_json::parse(good);
  for (const char* axis : {"members", "replicas", "stages"}) many["mesh"][axis] = 1 << 30;
  EXPECT_THAT(error_with(many.dump()), HasSubstr("its mesh cannot be"));
  // A file that is not listed would be taken as it is.
  for (size_t i = 0; i < 4; ++i) {
    nlohmann::ordered_json shorter = nlohmann::ordered_json::parse(good);
    ASSERT_EQ(shorter["files"].size(), 4);
    const std::string name = shorter["files"][i]["name"];
    shorter["files"][i]["name"] = "other.txt";
    EXPECT_THAT(error_with(shorter.dump()), HasSubstr("it does not list " + name));
  }
  // Older ones do not say who their members are.
  nlohmann::ordered_json silent = nlohmann::ordered_json::parse(good);
  silent.erase("members");
  EXPECT_EQ(error_with(silent.dump()), "");
}

TEST_F(CheckpointTest, ACheckpointOfAnotherModelIsRefusedByName) {
  train_half("other", text(), {}, 4);
  const std::string error = common_error(
      {.toml = text(), .overrides = {"model.n_layer=3"}, .folder = run("other"), .resume = true});
  EXPECT_THAT(error, AllOf(StartsWith("data error: "), HasSubstr("transformer.h.2.")));
}

TEST_F(CheckpointTest, WhatTheOptimizerKeepsMustBeThere) {
  train_half("sgd", text(), {"optimizer.name=sgd"}, 4);
  EXPECT_THAT(common_error({.toml = text(),
                            .overrides = {"optimizer.name=adamw"},
                            .folder = run("sgd"),
                            .resume = true}),
              AllOf(StartsWith("data error: "), HasSubstr("no state \"sync/")));
}

TEST_F(CheckpointTest, AManifestOfAPopulationListsEachMembersModel) {
  train_half("members", images(), {"mesh.members=2"}, 4);
  const fs::path file = checkpoint("members", 4) / "manifest.json";
  const auto good = nlohmann::ordered_json::parse(file_bytes(file));
  ASSERT_EQ(good["files"].size(), 2 * 2 + 1 + 2);
  for (size_t i = 0; i < good["files"].size(); ++i) {
    nlohmann::ordered_json shorter = good;
    shorter["files"].erase(i);
    io::write_text_atomically(file, shorter.dump());
    EXPECT_THAT(common_error({.toml = images(),
                              .overrides = {"mesh.members=2"},
                              .folder = run("members"),
                              .resume = true}),
                HasSubstr("it does not list " + good["files"][i]["name"].get<std::string>()));
  }
}

// Numbers in a state's names that no sum of them must go beyond.
TEST_F(CheckpointTest, ASliceBeyondAllNumbersIsRefused) {
  const fs::path file = folder_.path() / "state.safetensors";
  const auto error_with = [&](const std::string& begin) -> std::string {
    io::write_safetensors(file, {{"slice:sync/momentum@" + begin, at::zeros({4})}},
                          {{"total:sync/momentum", "4"}});
    try {
      StateFileReader({file}, 0);
    } catch (const DataError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_with("9223372036854775803"), "no error");
  for (const char* begin : {"9223372036854775804", "9223372036854775807", "9223372036854775808"}) {
    EXPECT_THAT(error_with(begin), HasSubstr("is not a slice of a flat vector")) << begin;
  }
}

// A file that may not grow beyond a limit fails as on a full disk, without being root.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t num_bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    previous_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = num_bytes, .rlim_max = before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, previous_);
  }

 private:
  rlimit before_{};
  void (*previous_)(int) = nullptr;
};

TEST_F(CheckpointTest, AFailedSaveIsAgreedOnAndLeavesTheEarlierOnesUnharmed) {
  const std::vector<std::string> overrides = {"mesh.replicas=2", "sync.name=zero1"};
  train_half("full", text(), overrides, 4);
  const std::string before = model_bytes(run("full"));
  const WorldRun resumed{
      .toml = text(), .overrides = overrides, .folder = run("full"), .resume = true};
  {
    const FileSizeLimit limit(20'000);  // the metrics fit, a rank's state does not
    EXPECT_THAT(common_error(resumed),
                AllOf(StartsWith("data error: cannot save the checkpoint of step 8: "),
                      HasSubstr("safetensors"), HasSubstr("File too large"),
                      HasSubstr("step-00000004, unharmed")));
  }
  EXPECT_EQ(list_checkpoints(run("full")).size(), 1);
  EXPECT_FALSE(fs::exists(run("full") / "checkpoints" / ".step-00000008"));
  EXPECT_EQ(model_bytes(run("full")), before);
  EXPECT_TRUE(train_well(resumed).finished);
}

TEST_F(CheckpointTest, AFullDiskIsNamed) {
  const fs::path disk = folder_.path() / "disk";
  fs::create_directories(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=128k") != 0) {
    GTEST_SKIP() << "mounting a small disk needs root";
  }
  const std::string error =
      common_error({.toml = text(),
                    .overrides = {"mesh.replicas=2", "sync.name=ddp", "model.n_embd=64"},
                    .folder = disk / "run"});
  umount(disk.c_str());
  EXPECT_THAT(error,
              AllOf(StartsWith("data error: cannot save the checkpoint of step 8: "),
                    HasSubstr("No space left on device"), HasSubstr("there is no earlier one")));
}

TEST_F(CheckpointTest, SavingTheSameStepAgainReplacesIt) {
  const auto outcomes = testing::on_world(
      {.toml = text(), .overrides = {}, .folder = {}}, [&](Recipe& recipe, Assembly& assembly) {
        save_checkpoint(run("twice"), {.step = 3}, recipe, assembly, 2.0);
        save_checkpoint(run("twice"), {.step = 3}, recipe, assembly, 1.0);
        return Summary{};
      });
  ASSERT_EQ(outcomes[0].error, "");
  const auto listed = list_checkpoints(run("twice"));
  ASSERT_EQ(listed.size(), 1);
  EXPECT_EQ(listed[0].validation_loss, 1.0);
  EXPECT_FALSE(fs::exists(run("twice") / "checkpoints" / ".step-00000003"));
}

}  // namespace
}  // namespace outstep::train
