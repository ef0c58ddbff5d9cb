#include "outstep/ensemble/plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "outstep/base/rng.h"
#include "outstep/ensemble/testing.h"
#include "outstep/nn/resnet.h"

namespace outstep::ensemble {
namespace {

using testing::ShapedModel;

std::vector<Layer> one_layer(int64_t size) { return {{.number = 0, .pieces = {{0, size}}}}; }

// Above the value that a chi-square of so many degrees exceeds once in 10,000 (Wilson, Hilferty).
double chi_square_bound(double degrees) {
  constexpr double kNormalQuantile = 3.72;
  const double c = 2 / (9 * degrees);
  return degrees * std::pow(1 - c + kNormalQuantile * std::sqrt(c), 3);
}

TEST(PortableLog, IsTheLogarithm) {
  CounterRng rng({.seed = 3, .purpose = purpose("test.log")});
  for (int i = 0; i < 10'000; ++i) {
    const double x = std::exp((rng.uniform() - 0.5) * 200);
    EXPECT_NEAR(portable_log(x), std::log(x), 4e-16 * std::max(1.0, std::abs(std::log(x)))) << x;
  }
  EXPECT_EQ(portable_log(1), 0);
}

TEST(Layers, AreWeightsWithTheVectorsBehindThem) {
  ShapedModel model(testing::some_shapes(), /*is_tied=*/true);
  const nn::FlatParams params(model, 1);
  EXPECT_EQ(count_layers(model), 3);
  const std::vector<Layer> layers = layers_of(model, params);
  ASSERT_EQ(layers.size(), 3);
  EXPECT_EQ(layers[0].size(), 96 + 6);
  EXPECT_EQ(layers[1].size(), 35);
  EXPECT_EQ(layers[2].size(), 200 + 1);  // the empty one and the tied one add nothing
  EXPECT_EQ(layers[0].names, (std::vector<std::string>{"p0", "p1"}));
  EXPECT_EQ(layers[0].pieces[1].begin, 96);
}

// The network of the paper's recipe: 21 layers, whose decreasing schedule takes 0.215 of what a
// constant one does, as it is fatter near its output.
TEST(Layers, OfResNet18MakeTheVolumeOfTheSpecification) {
  nn::ResNet model({.stem = "cifar", .num_classes = 100, .image_size = 32});
  const nn::FlatParams params(model, 1);
  EXPECT_EQ(params.num_parameters(), 11'220'132);
  EXPECT_EQ(count_layers(model), 21);
  const std::vector<double> factors = depth_factors(Depth::decreasing, 21);
  double taken = 0;
  for (const Layer& layer : layers_of(model, params)) {
    taken += factors[static_cast<size_t>(layer.number)] * static_cast<double>(layer.size());
  }
  EXPECT_NEAR(taken / static_cast<double>(params.num_parameters()), 0.215, 0.0005);
}

TEST(Layers, OfAStageKeepTheirNumbers) {
  ShapedModel model({{2, 2}, {3, 3}, {4}, {5, 5}});
  const nn::FlatParams params(model, 1, {.blocks = {.begin = 2}});
  const std::vector<Layer> layers = layers_of(model, params);
  ASSERT_EQ(layers.size(), 2);
  EXPECT_EQ(layers[0].number, 1);
  EXPECT_EQ(layers[0].size(), 4);
  EXPECT_EQ(layers[1].number, 2);
}

// A vector in front of a weight belongs to the layer before, which a cut between the two splits.
TEST(Layers, OfAStageKnowWhatLiesBeforeThem) {
  ShapedModel model({{2, 2}, {3, 3}, {6}, {4}, {5, 5}});
  const auto of_stage = [&](size_t begin) {
    return layers_of(model, nn::FlatParams(model, 1, {.blocks = {.begin = begin}}));
  };
  const auto num_before = [&](size_t begin) { return of_stage(begin)[0].num_before; };
  EXPECT_EQ(num_before(0), 0);
  EXPECT_EQ(num_before(1), 0);
  EXPECT_EQ(num_before(2), 9);
  EXPECT_EQ(num_before(3), 9 + 6);
  EXPECT_EQ(num_before(4), 0);
  EXPECT_EQ(of_stage(2)[1].num_before, 0);
}

TEST(Layers, Spec6FrozenParametersAreNotThere) {
  ShapedModel model({{2, 2}, {3, 3}});
  nn::FlatParams params(model, 1);
  params.parameters()[0]->tensor.set_requires_grad(false);
  const std::vector<Layer> layers = layers_of(model, params);
  ASSERT_EQ(layers.size(), 1);
  EXPECT_EQ(layers[0].number, 1);
}

TEST(Depth, FactorsFallOrRiseAlongTheModel) {
  using Factors = std::vector<double>;
  EXPECT_EQ(depth_factors(Depth::decreasing, 5), (Factors{1, 0.75, 0.5, 0.25, 0}));
  EXPECT_EQ(depth_factors(Depth::increasing, 3), (Factors{0, 0.5, 1}));
  EXPECT_EQ(depth_factors(Depth::constant, 2), (Factors{1, 1}));
  EXPECT_EQ(depth_factors(Depth::decreasing, 1), (Factors{1}));
  EXPECT_EQ(depth_factors(Depth::custom, 2, {0.3, 0.1}), (Factors{0.3, 0.1}));
  EXPECT_THROW(depth_factors(Depth::custom, 3, {0.3, 0.1}), ConfigError);
}

// 300 plans of 1,000 elements at p = 0.1: each element as often as any other, within chance; and
// 100 elements a plan.
TEST(Plan, Spec4TakesEachElementWithItsProbability) {
  constexpr int64_t kSize = 1000;
  constexpr int kPlans = 300;
  constexpr double kP = 0.1;
  std::vector<double> counts(kSize, 0);
  double total = 0;
  for (int step = 0; step < kPlans; ++step) {
    const Plan plan = make_plan(one_layer(kSize), std::vector<double>{kP}, {.step = step});
    for (const int64_t position : plan.positions) ++counts[static_cast<size_t>(position)];
    total += static_cast<double>(plan.size());
    EXPECT_TRUE(std::ranges::is_sorted(plan.positions));
  }
  double chi_square = 0;
  for (const double count : counts) {
    chi_square += std::pow(count - kPlans * kP, 2) / (kPlans * kP * (1 - kP));
  }
  EXPECT_LT(chi_square, chi_square_bound(kSize));
  const double deviation = std::sqrt(kPlans * kSize * kP * (1 - kP));
  EXPECT_NEAR(total, kPlans * kSize * kP, 4 * deviation);
}

// Neighbours are independent: gaps are geometric.
TEST(Plan, Spec4GapsAreGeometric) {
  constexpr double kP = 0.3;
  const Plan plan = make_plan(one_layer(100'000), std::vector<double>{kP}, {.seed = 5});
  std::vector<double> counts(20, 0);
  for (size_t k = 1; k < plan.positions.size(); ++k) {
    const int64_t gap = plan.positions[k] - plan.positions[k - 1] - 1;
    ++counts[static_cast<size_t>(std::min<int64_t>(gap, 19))];
  }
  const auto num_gaps = static_cast<double>(plan.size() - 1);
  double chi_square = 0;
  for (int gap = 0; gap < 20; ++gap) {
    const double share = std::pow(1 - kP, gap) * (gap < 19 ? kP : 1);
    chi_square +=
        std::pow(counts[static_cast<size_t>(gap)] - num_gaps * share, 2) / (num_gaps * share);
  }
  EXPECT_LT(chi_square, chi_square_bound(19));
}

TEST(Plan, Spec4AllPermutationsAreAlikeOften) {
  for (const int members : {2, 3, 4}) {
    const Plan plan =
        make_plan(one_layer(60'000), std::vector<double>{1.0}, {.seed = 9, .num_members = members});
    std::map<std::vector<int>, double> counts;
    for (int64_t k = 0; k < plan.size(); ++k) {
      std::vector<int> permutation;
      for (int n = 0; n < members; ++n) permutation.push_back(plan.source(k, n));
      ++counts[permutation];
    }
    const double num_permutations = std::tgamma(members + 1);
    ASSERT_EQ(counts.size(), num_permutations);
    const double expected = static_cast<double>(plan.size()) / num_permutations;
    double chi_square = 0;
    for (const auto& [permutation, count] : counts) {
      chi_square += std::pow(count - expected, 2) / expected;
    }
    EXPECT_LT(chi_square, chi_square_bound(num_permutations - 1)) << members;
  }
}

// Also of so many members that one random number does not do.
TEST(Plan, SourcesArePermutations) {
  for (const bool is_cyclic : {false, true}) {
    for (const int members : {1, 2, 7, 30, 100}) {
      const Plan plan = make_plan(one_layer(50), std::vector<double>{1.0},
                                  {.num_members = members, .is_cyclic = is_cyclic});
      ASSERT_EQ(plan.size(), 50);
      for (int64_t k = 0; k < plan.size(); ++k) {
        std::set<int> sources;
        for (int n = 0; n < members; ++n) {
          sources.insert(plan.source(k, n));
          if (is_cyclic) EXPECT_EQ(plan.source(k, n), (plan.source(k, 0) + n) % members);
        }
        EXPECT_EQ(std::ssize(sources), members);
      }
    }
  }
}

TEST(Plan, NothingAndAll) {
  EXPECT_EQ(make_plan(one_layer(100), std::vector<double>{0.0}, {}).size(), 0);
  const Plan all = make_plan(one_layer(100), std::vector<double>{1.5}, {});
  EXPECT_EQ(all.size(), 100);
  EXPECT_EQ(all.positions.back(), 99);
  // So rare that a skip is longer than any integer.
  EXPECT_EQ(make_plan(one_layer(100), std::vector<double>{1e-300}, {}).size(), 0);
}

TEST(Plan, IsAFunctionOfItsArguments) {
  const auto hash = [](const PlanOptions& options) {
    return make_plan(one_layer(5000), std::vector<double>{0.1}, options).hash();
  };
  const PlanOptions options{.seed = 4, .step = 17, .num_members = 3};
  EXPECT_EQ(hash(options), hash(options));
  EXPECT_EQ(hash(options),
            1368338912245363648ULL);  // golden: no C library or processor changes it
  for (const PlanOptions& other : {PlanOptions{.seed = 5, .step = 17, .num_members = 3},
                                   PlanOptions{.seed = 4, .step = 18, .num_members = 3},
                                   PlanOptions{.seed = 4, .step = 17, .num_members = 4}}) {
    EXPECT_NE(hash(other), hash(options));
  }
}

// A layer's part does not depend on the others: a stage plans its own.
TEST(Plan, LayersAreDrawnByThemselves) {
  const std::vector<Layer> both = {{.number = 0, .pieces = {{0, 500}}},
                                   {.number = 1, .pieces = {{512, 700}, {704, 900}}}};
  const std::vector<double> probabilities = {0.2, 0.1};
  const Plan whole = make_plan(both, probabilities, {.num_members = 3});
  const Plan second = make_plan(std::span(both).last(1), probabilities, {.num_members = 3});
  ASSERT_LT(second.size(), whole.size());
  EXPECT_TRUE(
      std::equal(second.positions.rbegin(), second.positions.rend(), whole.positions.rbegin()));
  for (const int64_t position : whole.positions) {
    EXPECT_TRUE(position < 500 || (position >= 512 && position < 700) ||
                (position >= 704 && position < 900))
        << position;
  }
}

// Stages plan their parts of a layer as one process plans all of it.
TEST(Plan, APartOfALayerIsTheWholeLayersTail) {
  for (const bool is_cyclic : {false, true}) {
    for (const double p : {0.01, 0.3, 1.0}) {
      const std::vector<double> probabilities = {p, p};
      const PlanOptions options{.step = 7, .num_members = 30, .is_cyclic = is_cyclic};
      const std::vector<Layer> all = {{.number = 1, .pieces = {{0, 300}, {304, 500}, {512, 700}}}};
      const std::vector<Layer> head = {{.number = 1, .pieces = {{0, 300}}}};
      // A flat vector of its own, which begins at 304 of the whole one.
      const std::vector<Layer> tail = {
          {.number = 1, .pieces = {{0, 196}, {208, 396}}, .num_before = 300}};
      const Plan whole = make_plan(all, probabilities, options);
      Plan joined = make_plan(head, probabilities, options);
      const Plan second = make_plan(tail, probabilities, options);
      EXPECT_GT(second.size(), 0);
      for (const int64_t position : second.positions) joined.positions.push_back(304 + position);
      joined.sources.insert(joined.sources.end(), second.sources.begin(), second.sources.end());
      EXPECT_EQ(joined.positions, whole.positions) << p;
      EXPECT_EQ(joined.sources, whole.sources) << p;
    }
  }
}

// Member n descends a quadratic towards an optimum of its own; V is the variance of the optima. The
// distance to the mean settles at V k / (2 - k) (1 + r) / (1 - r), r = (1 - k)(1 - p).
TEST(Plan, Spec5DistanceOnAQuadraticIsTheClosedForm) {
  struct Case {
    int members;
    double k, p;
  };
  for (const auto& [members, k, p] :
       {Case{5, 0.01, 0.01}, Case{3, 0.01, 0.05}, Case{10, 0.01, 0.1}}) {
    constexpr int64_t kSize = 2000;
    constexpr int kSettling = 800, kSteps = 2400;
    const at::Tensor optima = at::empty({members, kSize}, at::kDouble);
    fill_normal(optima, 0, 1, {.seed = 1, .purpose = purpose("test.optima")});
    const double variance = optima.var(0, /*unbiased=*/false).mean().item<double>();
    const at::Tensor values = optima.mean(0, true).repeat({members, 1});
    std::vector<at::Tensor> rows;
    for (int n = 0; n < members; ++n) rows.push_back(values[n]);
    double sum = 0;
    for (int step = 0; step < kSteps; ++step) {
      values.add_(optima - values, k);
      shuffle_in_process(make_plan(one_layer(kSize), std::vector<double>{p},
                                   {.step = step, .num_members = members}),
                         rows);
      if (step >= kSettling) sum += values.var(0, false).mean().item<double>();
    }
    const double r = (1 - k) * (1 - p);
    const double expected = variance * k / (2 - k) * (1 + r) / (1 - r);
    EXPECT_NEAR(sum / (kSteps - kSettling) / expected, 1, 0.02) << members << " " << k << " " << p;
  }
}

}  // namespace
}  // namespace outstep::ensemble
