#include "outstep/train/assembly.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "outstep/base/errors.h"
#include "outstep/comm/launch.h"
#include "outstep/io/files.h"
#include "outstep/train/tables.h"
#include "outstep/train/test_world.h"

namespace outstep::train {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using testing::Outcome;
using ::testing::StartsWith;
using testing::TemporaryFolder;

class AssemblyTest : public ::testing::Test {
 protected:
  AssemblyTest() {
    at::set_num_threads(1);
    testing::write_text_data(folder_.path() / "words.txt");
    testing::write_image_data(folder_.path() / "images");
  }
  std::string text() const { return testing::text_recipe(folder_.path() / "words.txt"); }

  // Of all ranks alike.
  std::string error_of(const std::vector<std::string>& overrides) {
    std::vector<Outcome> outcomes;
    try {
      outcomes = testing::on_world({.toml = text(), .overrides = overrides, .folder = {}},
                                   [](Recipe&, Assembly&) { return Summary{}; });
    } catch (const Error& error) {  // of reading the recipe
      return fmt::format("{}: {}", error.kind(), error.what());
    }
    for (const Outcome& outcome : outcomes) EXPECT_EQ(outcome.error, outcomes[0].error);
    return outcomes[0].error;
  }

  TemporaryFolder folder_;
};

TEST_F(AssemblyTest, AKeyThatNobodyReadsIsAnErrorWithItsPlaceAndTheNearestSpelling) {
  EXPECT_THAT(error_of({"engine.micro_bach=3"}),
              AllOf(StartsWith("config error: --engine.micro_bach: unknown key \"micro_bach\" in "
                               "[engine]"),
                    HasSubstr("did you mean \"micro_batch\"?")));
  EXPECT_THAT(error_of({"optimiser.lr=3"}), HasSubstr("did you mean [optimizer]?"));
  EXPECT_THAT(error_of({"optimizer.nesterov=true"}), HasSubstr("unknown key \"nesterov\""));
}

TEST_F(AssemblyTest, UnknownNamesGetTheListAndTheNearestSpelling) {
  EXPECT_THAT(error_of({"sync.name=zero"}),
              AllOf(HasSubstr("--sync.name: sync.name is \"zero\""), HasSubstr("none, ddp, zero1"),
                    HasSubstr("did you mean \"zero1\"?")));
  EXPECT_THAT(error_of({"engine.name=backprob"}), HasSubstr("did you mean \"backprop\"?"));
  EXPECT_THAT(error_of({"ensemble.name=wosh"}), HasSubstr("did you mean \"wash\"?"));
  EXPECT_THAT(error_of({"optimizer.name=adam"}), HasSubstr("did you mean \"adamw\"?"));
  EXPECT_THAT(error_of({"comm.backend=glo"}), HasSubstr("did you mean \"gloo\"?"));
}

TEST_F(AssemblyTest, ValuesOutOfRangeNameTheirKeyAndBounds) {
  EXPECT_THAT(error_of({"train.steps=0"}), HasSubstr("train.steps is 0, it must be at least 1"));
  EXPECT_THAT(error_of({"train.seed=text"}), HasSubstr("train.seed must be a whole number"));
  EXPECT_THAT(error_of({"train.clip_norm=-1"}), HasSubstr("train.clip_norm is -1"));
  EXPECT_THAT(error_of({"comm.deadline_seconds=0"}), HasSubstr("must be more than 0"));
  EXPECT_THAT(error_of({"mesh.replicas=0"}), HasSubstr("mesh.replicas is 0"));
}

TEST_F(AssemblyTest, CombinationsThatMakeNoSenseAreRefusedWithTheReason) {
  EXPECT_THAT(error_of({"mesh.replicas=2", "sync.name=none"}),
              AllOf(HasSubstr("sync \"none\" is for one replica, and mesh.replicas is 2"),
                    HasSubstr("use sync \"ddp\" or \"zero1\""),
                    HasSubstr("A run can go on with another sync: --sync.name=ddp")));
  EXPECT_THAT(error_of({"mesh.members=2", "mesh.replicas=2", "sync.name=acco"}),
              AllOf(HasSubstr("would let the 2 members make different numbers of updates"),
                    HasSubstr("set sync.counts = \"fixed\"")));
  EXPECT_THAT(error_of({"ensemble.name=wash", "ensemble.p=2"}),
              HasSubstr("--ensemble.p: ensemble.p is 2"));
  EXPECT_THAT(error_of({"mesh.members=2", "ensemble.name=wash", "ensemble.depth=custom",
                        "ensemble.depth_factors=[1, 0.5]"}),
              HasSubstr("ensemble.depth_factors has 2 numbers, but the model has"));
  EXPECT_THAT(error_of({"mesh.stages=2"}),
              HasSubstr("mesh.stages = 2: engine \"backprop\" trains the whole model"));
}

TEST_F(AssemblyTest, AGpuThatIsNotThereIsAConfigError) {
  if (at::hasCUDA()) GTEST_SKIP() << "there is a GPU";
  EXPECT_THAT(error_of({"train.device=cuda"}),
              AllOf(StartsWith("config error: train.device = \"cuda\""), HasSubstr("no GPU here"),
                    HasSubstr("use \"cpu\"")));
}

TEST_F(AssemblyTest, RanksOnGpusNeedNccl) {
  const auto complaint = [this](const std::vector<std::string>& overrides) -> std::string {
    try {
      require_takes_device(read_recipe_text(text(), "test.toml", overrides));
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "none";
  };
  for (const char* mesh : {"mesh.replicas=2", "mesh.members=2"}) {
    EXPECT_THAT(complaint({"train.device=cuda", mesh}),
                AllOf(StartsWith("train.device = \"cuda\": 2 ranks"),
                      HasSubstr("over comm.backend = \"gloo\""),
                      HasSubstr("use comm.backend = \"nccl\", or train.device = \"cpu\"")));
    EXPECT_EQ(complaint({"train.device=cuda", mesh, "comm.backend=nccl"}), "none");
    EXPECT_EQ(complaint({mesh}), "none");
  }
  EXPECT_EQ(complaint({"train.device=cuda"}), "none");
  EXPECT_THAT(error_of({"train.device=cuda", "mesh.stages=2", "engine.name=petra"}),
              HasSubstr("stages send each other tensors on the CPU alone"));
}

TEST_F(AssemblyTest, AWorldOfAnotherSizeThanTheMeshIsRefused) {
  auto fabrics = comm::local_fabrics(2);
  Recipe recipe = read_recipe_text(text(), "test.toml", {"mesh.replicas=3", "sync.name=ddp"});
  try {
    assemble(recipe, {}, *fabrics[0], nullptr);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("3 replicas × 1 stage × 1 member = 3 ranks"),
                                    HasSubstr("has 2"), EndsWith("set --mesh.replicas=2")));
  }
}

// One that no number of replicas fits.
TEST_F(AssemblyTest, AWorldOfHalfAPipelineIsToldWhatWouldFit) {
  const comm::Mesh mesh{.members = 1, .replicas = 1, .stages = 2};
  try {
    require_world(mesh, {.world_size = 3});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), EndsWith("has 3; start as many, or 2 · R with --mesh.replicas=R"));
  }
}

TEST_F(AssemblyTest, RanksWithDifferentRecipesAreRefusedWithTheFirstDifference) {
  auto fabrics = comm::local_fabrics(2);
  std::vector<std::string> errors(2);
  {
    std::vector<std::jthread> ranks;
    for (size_t r = 0; r < 2; ++r) {
      ranks.emplace_back([&, r] {
        Recipe recipe = read_recipe_text(
            text(), "test.toml",
            {"mesh.replicas=2", "sync.name=ddp", r == 0 ? "optimizer.lr=0.1" : "optimizer.lr=0.2"});
        try {
          assemble(recipe, {}, *fabrics[r], nullptr);
        } catch (const ConfigError& error) {
          errors[r] = error.what();
        }
      });
    }
  }
  EXPECT_EQ(errors[0], errors[1]);
  EXPECT_EQ(errors[0],
            "rank 1 has another recipe than rank 0: \"lr = 0.2\" where rank 0 has \"lr = 0.1\"; "
            "start all ranks with the same recipe and overrides");
}

// A stage that reads inputs elsewhere than the last one reads targets would learn nonsense in
// silence. Of as many bytes, with one that is another.
TEST_F(AssemblyTest, RanksWithDifferentDataAreRefused) {
  for (const bool is_same : {true, false}) {
    auto fabrics = comm::local_fabrics(2);
    std::vector<std::string> errors(2);
    {
      std::vector<std::jthread> ranks;
      for (size_t r = 0; r < 2; ++r) {
        ranks.emplace_back([&, r] {
          const auto root = folder_.path() / std::to_string(r);
          std::filesystem::create_directories(root);
          std::string words = io::read_text(folder_.path() / "words.txt");
          if (r == 1 && !is_same) words.front() = '?';
          io::write_text_atomically(root / "words.txt", words);
          Recipe recipe = read_recipe_text(
              text(), "test.toml", {"mesh.replicas=2", "sync.name=ddp", "data.path=words.txt"});
          try {
            assemble(recipe, {.data_root = root, .shipped = {}, .cache = {}}, *fabrics[r], nullptr);
          } catch (const ConfigError& error) {
            errors[r] = error.what();
          }
        });
      }
    }
    EXPECT_EQ(errors[0], errors[1]);
    if (is_same) {
      EXPECT_EQ(errors[0], "");
    } else {
      EXPECT_THAT(errors[0], AllOf(StartsWith("ranks differ in their data: rank 1"),
                                   HasSubstr("differs from rank 0")));
    }
  }
}

TEST_F(AssemblyTest, MissingDataIsADataErrorOnEveryRank) {
  EXPECT_THAT(error_of({"mesh.replicas=2", "data.path=nowhere.txt"}),
              AllOf(StartsWith("data error: "), HasSubstr("nowhere.txt")));
}

TEST_F(AssemblyTest, TheFreeChoiceOfSyncFollowsTheMesh) {
  const auto name_with = [&](const std::string& replicas) {
    std::string name;
    testing::on_world({.toml = text(), .overrides = {"mesh.replicas=" + replicas}, .folder = {}},
                      [&](Recipe&, Assembly& assembly) {
                        if (assembly.place.replica == 0) name = assembly.sync->name();
                        return Summary{};
                      });
    return name;
  };
  EXPECT_EQ(name_with("1"), "none");
  EXPECT_EQ(name_with("2"), "ddp");
}

}  // namespace
}  // namespace outstep::train
