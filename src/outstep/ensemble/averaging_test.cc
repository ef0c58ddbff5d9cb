#include "outstep/ensemble/averaging.h"

#include <numeric>
#include <set>

#include "outstep/ensemble/consensus.h"
#include "outstep/ensemble/sparta.h"
#include "outstep/ensemble/testing.h"

namespace outstep::ensemble {
namespace {

using testing::Member;
using testing::run_members;
using testing::some_shapes;
using testing::values_after;

std::vector<at::Tensor> at_start(int num_members) {
  return values_after(num_members,
                      [](comm::Group& group) { return Member(group, some_shapes()).values(); });
}

std::vector<at::Tensor> mixed(int num_members, const std::string& method,
                              const AveragingOptions& options, double lr_share = 1) {
  return values_after(num_members, [&](comm::Group& group) {
    Member member(group, some_shapes());
    Averaging averaging(member.parts, method, options);
    const int64_t before = group.bytes_sent();
    const auto report = averaging.after_step({.step = 0, .lr_share = lr_share}, {});
    EXPECT_EQ(report.bytes_sent, group.bytes_sent() - before);
    if (method != "papa_2" && method != "noloco") {
      EXPECT_EQ(static_cast<double>(report.bytes_sent) / options.timing.interval,
                averaging.planned_bytes_per_step());
    }
    return member.values();
  });
}

// In rank order, as collectives add.
at::Tensor mean_of(const std::vector<at::Tensor>& members) {
  at::Tensor sum = members[0].clone();
  for (size_t n = 1; n < members.size(); ++n) sum.add_(members[n]);
  return sum.div_(static_cast<int64_t>(members.size()));
}

TEST(Papa, PullsEachMemberToTheMean) {
  for (const int members : {2, 3, 5}) {
    const auto before = at_start(members);
    const auto after = mixed(members, "papa", {.alpha = 0.9}, 0.5);
    const double strength = (1 - 0.9) * 0.5;
    for (size_t n = 0; n < after.size(); ++n) {
      const at::Tensor expected = before[n] * (1 - strength) + mean_of(before) * strength;
      EXPECT_TRUE(at::allclose(after[n], expected, 1e-6, 1e-7));
    }
  }
}

// A pull multiplies the distance by (1 - λ)², and leaves the mean.
TEST(Papa, ContractsTheDistanceAsItShould) {
  run_members(3, [&](comm::Group& group) {
    Member member(group, some_shapes());
    const Consensus before = measure_consensus(group, member.values());
    Averaging papa(member.parts, "papa", {.alpha = 0.6});
    papa.after_step({.step = 0}, {});
    const Consensus after = measure_consensus(group, member.values());
    EXPECT_NEAR(after.distance / before.distance, 0.36, 1e-5);
    EXPECT_NEAR(after.mean_norm / before.mean_norm, 1, 1e-5);
  });
}

TEST(PapaAll, AndDartMakeAllTheMean) {
  for (const std::string method : {"papa_all", "dart"}) {
    const auto after = mixed(3, method, {});
    const at::Tensor mean = mean_of(at_start(3));
    for (const at::Tensor& values : after) EXPECT_TRUE(at::equal(values, mean)) << method;
  }
}

TEST(Papa2, ChildrenAreMeansOfPairs) {
  const auto before = at_start(5);
  const auto after = mixed(5, "papa_2", {});
  const Partners pairs = draw_pairs(1, 0, 5);
  for (size_t n = 0; n < after.size(); ++n) {
    const auto [a, b] = pairs[n];
    EXPECT_NE(a, b);
    EXPECT_TRUE(at::equal(after[n],
                          (before[static_cast<size_t>(a)] + before[static_cast<size_t>(b)]) * 0.5));
  }
}

TEST(Papa2, AllPairsAreDrawn) {
  std::set<std::pair<int, int>> drawn;
  for (int64_t step = 0; step < 200; ++step) {
    for (const auto& pair : draw_pairs(3, step, 4)) drawn.insert(pair);
  }
  EXPECT_EQ(drawn.size(), 4 * 3);
}

TEST(NoLoCo, PairsMeetAndAnOddOneGoesOnAlone) {
  for (const int members : {2, 3, 4, 7}) {
    const auto before = at_start(members);
    const auto after = mixed(members, "noloco", {});
    const Partners partners = draw_matching(1, 0, members);
    int num_alone = 0;
    for (size_t n = 0; n < after.size(); ++n) {
      const auto peer = static_cast<size_t>(partners[n].second);
      EXPECT_EQ(partners[peer].second, static_cast<int>(n));
      num_alone += peer == n ? 1 : 0;
      EXPECT_TRUE(at::equal(after[n], peer == n ? before[n] : (before[n] + before[peer]) * 0.5));
    }
    EXPECT_EQ(num_alone, members % 2);
  }
}

TEST(Sparta, AveragesAFractionOfThePositions) {
  const auto before = at_start(3);
  const auto after = values_after(3, [&](comm::Group& group) {
    Member member(group, some_shapes());
    Sparta sparta(member.parts, {.p = 0.3});
    const auto report = sparta.after_step({.step = 0}, {});
    EXPECT_GT(report.num_mixed, 50);
    EXPECT_GT(report.bytes_sent, 0);
    return member.values();
  });
  const at::Tensor mean = mean_of(before);
  for (size_t n = 0; n < after.size(); ++n) {
    const at::Tensor is_mean = after[n].eq(mean), is_own = after[n].eq(before[n]);
    EXPECT_TRUE(is_mean.logical_or(is_own).all().item<bool>());
    EXPECT_FALSE(is_mean.all().item<bool>());
    EXPECT_FALSE(is_own.all().item<bool>());
  }
}

// Longer than a piece.
TEST(NoLoCo, ModelsTravelInPieces) {
  const testing::Shapes large = {{1025, 1024}, {7}};
  const auto start =
      values_after(2, [&](comm::Group& group) { return Member(group, large).values(); });
  const auto after = values_after(2, [&](comm::Group& group) {
    Member member(group, large);
    Averaging(member.parts, "noloco", {}).after_step({.step = 0}, {});
    return member.values();
  });
  for (const at::Tensor& values : after) {
    EXPECT_TRUE(at::equal(values, (start[0] + start[1]) * 0.5));
  }
}

TEST(Averaging, WrongSettingsAreRefused) {
  const auto complaint = [](const std::string& method, const std::string& keys) -> std::string {
    auto settings = io::Settings::from_text("[ensemble]\n" + keys, "my.toml");
    io::Section section = settings.section("ensemble");
    try {
      if (method == "sparta") {
        SpartaOptions::read(section);
      } else {
        AveragingOptions::read(section, method);
      }
      settings.require_all_used();
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(complaint("papa", "alpha = 1.5"), HasSubstr("ensemble.alpha is 1.5"));
  EXPECT_THAT(complaint("papa_all", "alpha = 0.5"), HasSubstr("unknown key \"alpha\""));
  EXPECT_THAT(complaint("noloco", "interval = 0"), HasSubstr("ensemble.interval is 0"));
  EXPECT_THAT(complaint("sparta", "p = -1"), HasSubstr("ensemble.p is -1"));
  EXPECT_EQ(complaint("dart", "start_step = 100\ninterval = 50"), "no error");
}

TEST(Averaging, LeavesFrozenParametersAlone) {
  run_members(3, [&](comm::Group& group) {
    for (const char* method : {"papa", "papa_all", "papa_2", "dart", "noloco"}) {
      Member member(group, {{10, 10}, {10, 10}});
      member.params.parameters()[0]->tensor.set_requires_grad(false);
      Averaging averaging(member.parts, method, {});
      const at::Tensor before = member.values().clone();
      for (int step = 0; step < 5; ++step) averaging.after_step({.step = step}, {});
      EXPECT_TRUE(at::equal(member.values().narrow(0, 0, 100), before.narrow(0, 0, 100))) << method;
      EXPECT_FALSE(at::equal(member.values(), before)) << method;
    }
  });
}

TEST(Averaging, OneMemberHasNothingToDo) {
  run_members(1, [&](comm::Group& group) {
    Member member(group, some_shapes());
    for (const char* method : {"papa", "papa_all", "papa_2", "dart", "noloco"}) {
      const Averaging averaging(member.parts, method, {});
      EXPECT_FALSE(averaging.is_due({.step = 0})) << method;
      EXPECT_EQ(averaging.planned_bytes_per_step(), 0) << method;
    }
    EXPECT_FALSE(Sparta(member.parts, {}).is_due({.step = 0}));
  });
}

TEST(Consensus, IsTheMeanSquaredDistanceToTheMean) {
  const auto values = at_start(4);
  const at::Tensor all = at::stack(values).to(at::kDouble);
  const double expected = (all - all.mean(0, true)).square().sum().item<double>() / 4;
  run_members(4, [&](comm::Group& group) {
    Member member(group, some_shapes());
    const Consensus consensus = measure_consensus(group, member.values());
    EXPECT_NEAR(consensus.distance, expected, 1e-4 * expected);
    EXPECT_NEAR(consensus.mean_norm, all.mean(0).square().sum().item<double>(), 1e-3);
  });
}

}  // namespace
}  // namespace outstep::ensemble
