#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "outstep/data/regularization.h"
#include "outstep/io/safetensors.h"
#include "outstep/train/evaluation.h"
#include "outstep/train/member_soups.h"
#include "outstep/train/population.h"
#include "outstep/train/test_population.h"

// What a run of a population comes to: members, ensemble, soups, distances, recomputed statistics.

namespace outstep::train {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class PopulationEndTest : public PopulationTest {};

TEST_F(PopulationEndTest, TheEndIsMembersEnsembleAverageAndSoup) {
  const Overrides population = {"mesh.members=3", "ensemble.name=wash", "ensemble.p=0.1"};
  const Summary summary = train(images(), population, "run");
  ASSERT_TRUE(summary.population);
  const Population& found = *summary.population;
  ASSERT_EQ(found.members.size(), 3);
  for (const auto& evaluation : {found.ensemble, found.average, found.greedy, found.members[2]}) {
    EXPECT_EQ(evaluation.units, 24);
    EXPECT_GT(evaluation.loss(), 0);
  }
  EXPECT_EQ(summary.accuracy, mean_accuracy(found.members));
  EXPECT_EQ(summary.validation_loss, mean_loss(found.members));
  EXPECT_GT(found.consensus_distance, 0);
  for (const auto& member : found.members) {
    EXPECT_GE(found.greedy.accuracy(), member.accuracy());
  }
  // The file is the mean of the members', and says so.
  const io::Safetensors average(found.average_folder / "model.safetensors");
  at::Tensor sum = weight("run", 3, 0, "conv1.weight");
  for (int m = 1; m < 3; ++m) sum = sum + weight("run", 3, m, "conv1.weight");
  EXPECT_TRUE(at::allclose(average.tensor("conv1.weight"), sum / 3, 1e-6, 1e-7));
  const auto soup = nlohmann::json::parse(average.metadata().at("soup"));
  EXPECT_EQ(soup["kind"], "uniform soup");
  EXPECT_EQ(soup["ingredients"].size(), 3);
  EXPECT_EQ(soup["ingredients"][2]["seed"], member_seed(1, 2));
  EXPECT_TRUE(fs::exists(found.average_folder / "config.json"));
}

// A heterogeneous population's members are runs with the regularisation that the table deals them.
TEST_F(PopulationEndTest, MembersMayBeRegularisedEachInItsOwnWay) {
  train(images(),
        {"mesh.members=3", "ensemble.init=independent", "ensemble.regularization=heterogeneous"},
        "population");
  const auto table = data::heterogeneous_members(3, 1);
  for (int member = 0; member < 3; ++member) {
    const data::Regularization& own = table[static_cast<size_t>(member)];
    const std::string name = "alone-" + std::to_string(member);
    train(
        images(),
        {fmt::format("data.mixup={:.1f}", own.mixup), fmt::format("data.cutmix={:.1f}", own.cutmix),
         fmt::format("data.random_erasing={:.2f}", own.random_erasing),
         fmt::format("model.label_smoothing={:.2f}", own.label_smoothing),
         fmt::format("train.seed={}", member_seed(1, member))},
        name);
    EXPECT_EQ(member_bytes("population", 3, member), member_bytes(name, 1, 0)) << member;
  }
}

TEST_F(PopulationEndTest, ARegularisationOfItsOwnAllowsNoneForAll) {
  const auto error_of = [&](const std::string& toml, const std::string& more) {
    return testing::train(
               {.toml = toml,
                .overrides = {"mesh.members=2", "ensemble.regularization=heterogeneous", more},
                .folder = folder_.path() / "refused"})[0]
        .error;
  };
  EXPECT_THAT(error_of(images(), "data.mixup=0.5"), HasSubstr("data.mixup = 0.5, but"));
  EXPECT_THAT(error_of(images(), "model.label_smoothing=0.1"),
              HasSubstr("model.label_smoothing = 0.1, but"));
  EXPECT_THAT(error_of(images(), "data.augment=false"), HasSubstr("data.augment = false, but"));
  EXPECT_THAT(error_of(text(), "train.steps=2"), HasSubstr("has no images"));
}

// Distances of pairs and of the mean are two views of one thing: Σ over i < j of ‖θ_i - θ_j‖² is
// N² times the mean square to the mean.
TEST_F(PopulationEndTest, PairsAreAsFarApartAsTheirMeanSays) {
  const Overrides population = {"mesh.members=3", "ensemble.barrier_points=3",
                                "ensemble.batch_norm=average"};
  const Summary summary = train(images(), population, "run");
  const Population& found = *summary.population;
  ASSERT_EQ(found.pairs.size(), 3);
  double squares = 0;
  for (const Pair& pair : found.pairs) {
    squares += pair.distance * pair.distance;
    ASSERT_EQ(pair.between.size(), 3);
    EXPECT_GE(pair.barrier(), 0);
    EXPECT_EQ(pair.ends[1].loss(), found.members[static_cast<size_t>(pair.members[1])].loss());
  }
  EXPECT_NEAR(squares, 9 * found.consensus_distance, 1e-5 * squares);
  const auto json = found.to_json();
  EXPECT_EQ(json["pairs"][2]["members"], (std::vector<int>{1, 2}));
  EXPECT_EQ(json["pairs"][2]["barrier"], found.pairs[2].barrier());
}

TEST_F(PopulationEndTest, HalfWayBetweenTwoIsTheirAverage) {
  for (const Overrides& mesh :
       {Overrides{"mesh.members=2"}, {"mesh.members=2", "mesh.replicas=2", "sync.name=ddp"}}) {
    const Summary summary =
        train(images(), with(mesh, {"ensemble.barrier_points=1"}), "run" + mesh.back());
    const Population& found = *summary.population;
    EXPECT_EQ(found.pairs[0].between[0].loss(), found.average.loss());
    EXPECT_NEAR(found.pairs[0].distance, 2 * std::sqrt(found.consensus_distance),
                1e-5 * found.pairs[0].distance);
  }
}

TEST(PairOfMembers, ABarrierIsWhatTheLineBetweenTheEndsDoesNotExplain) {
  const auto loss = [](double value) { return method::Evaluation{.loss_sum = value, .units = 1}; };
  Pair pair{
      .members = {0, 1}, .ends = {loss(1), loss(3)}, .between = {loss(1.5), loss(2.25), loss(2)}};
  EXPECT_EQ(pair.barrier(), 0.25);
  pair.between = {loss(1), loss(1), loss(1)};
  EXPECT_EQ(pair.barrier(), 0);
  pair.between = {loss(1), loss(NAN), loss(9)};
  EXPECT_TRUE(std::isnan(pair.barrier()));
}

// The members of an average over everything are one model: so is all that is made of them.
TEST_F(PopulationEndTest, OfEqualMembersAllIsOne) {
  const Summary summary =
      train(text(), {"mesh.members=2", "ensemble.name=papa_all", "ensemble.interval=8"}, "run");
  const Population& found = *summary.population;
  EXPECT_EQ(found.members[0].loss(), found.members[1].loss());
  EXPECT_EQ(found.average.loss(), found.members[0].loss());
  EXPECT_NEAR(found.ensemble.loss(), found.members[0].loss(), 1e-6);
  EXPECT_EQ(found.greedy_members, std::vector<int>{0});
  EXPECT_EQ(found.consensus_distance, 0);
}

// Recomputed running statistics are means over batches at the average's own weights: the same
// however many ranks make them, and not those of the members.
TEST_F(PopulationEndTest, RunningStatisticsOfTheAverageAreRecomputed) {
  const Overrides population = {"mesh.members=2", "evaluation.max_batches=1"};
  const auto statistics = [&](const std::string& name, const Overrides& more) {
    const Summary summary = train(images(), with(population, more), name);
    return io::Safetensors(summary.population->average_folder / "model.safetensors")
        .tensor("bn1.running_mean")
        .clone();
  };
  const at::Tensor recomputed = statistics("recompute", {"ensemble.batch_norm_batches=4"});
  const at::Tensor averaged = statistics("average", {"ensemble.batch_norm=average"});
  EXPECT_FALSE(at::allclose(recomputed, averaged));
  const auto mean_of = [&](const std::string& name) {
    return (weight(name, 2, 0, "bn1.running_mean") + weight(name, 2, 1, "bn1.running_mean")) / 2;
  };
  EXPECT_TRUE(at::allclose(averaged, mean_of("average"), 1e-6, 1e-7));
  const at::Tensor of_replicas =
      statistics("replicas", {"ensemble.batch_norm=average", "mesh.replicas=2", "sync.name=ddp"});
  EXPECT_TRUE(at::allclose(of_replicas, mean_of("replicas"), 1e-6, 1e-7));
}

// However far a member's own ones have gone astray.
TEST_F(PopulationEndTest, RecomputedStatisticsForgetWhatWasThere) {
  std::vector<at::Tensor> statistics;
  for (const double before : {1.0, HUGE_VAL}) {
    const auto outcomes =
        testing::on_world({.toml = images(), .overrides = {"mesh.members=2"}, .folder = {}},
                          [&](Recipe& recipe, Assembly& assembly) {
                            const at::Tensor& buffers = assembly.params->buffers();
                            if (assembly.place.member == 1) buffers.fill_(before);
                            MemberSoups soups(recipe, assembly);
                            const auto soup = soups.evaluate(std::vector<int64_t>{1, 1});
                            EXPECT_TRUE(std::isfinite(soup.loss()));
                            if (assembly.place.member == 0) statistics.push_back(buffers.clone());
                            return Summary{};
                          });
    for (const auto& outcome : outcomes) EXPECT_EQ(outcome.error, "");
  }
  EXPECT_TRUE(at::isfinite(statistics[0]).all().item<bool>());
  EXPECT_TRUE(at::equal(statistics[0], statistics[1]));
}

}  // namespace
}  // namespace outstep::train
