#include "outstep/ensemble/wash.h"

#include <cmath>

#include "outstep/ensemble/testing.h"
#include "outstep/optim/adamw.h"

namespace outstep::ensemble {
namespace {

using ::testing::HasSubstr;
using testing::Member;
using testing::run_members;
using testing::some_shapes;
using testing::sorted;
using testing::values_after;

WashOptions with(double p) { return {.p = p, .depth = Depth::constant}; }

// One plan after another, on all members' vectors in this process.
std::vector<at::Tensor> reference(int num_members, const WashOptions& options, int num_steps,
                                  bool is_tied) {
  std::vector<at::Tensor> values = values_after(num_members, [&](comm::Group& group) {
    return Member(group, some_shapes(), is_tied).values();
  });
  run_members(1, [&](comm::Group& group) {
    const Member member(group, some_shapes(), is_tied);
    const auto layers = layers_of(member.model, member.params);
    std::vector<double> probabilities = depth_factors(options.depth, count_layers(member.model));
    for (double& p : probabilities) p *= options.p;
    for (int step = 0; step < num_steps; ++step) {
      shuffle_in_process(
          make_plan(layers, probabilities,
                    {.step = step, .num_members = num_members, .is_cyclic = options.is_cyclic}),
          values);
    }
  });
  return values;
}

std::vector<at::Tensor> shuffled(int num_members, const WashOptions& options, int num_steps,
                                 bool is_tied = false) {
  return values_after(num_members, [&](comm::Group& group) {
    Member member(group, some_shapes(), is_tied);
    Wash wash(member.parts, options);
    for (int step = 0; step < num_steps; ++step) {
      const method::MixContext context{.step = step};
      if (wash.is_due(context)) wash.after_step(context, {});
    }
    return member.values();
  });
}

// What a hostile checkpoint may hold of a delayed shuffle among two.
class ForgedWash : public io::Stateful {
 public:
  ForgedWash(double lr_share, int64_t plan, int64_t step)
      : lr_share_(lr_share), plan_(plan), step_(step) {}
  void save(io::StateWriter& writer) const override {
    writer.shared("wash.is_pending", 1);
    writer.shared("wash.num_members", 2);
    writer.shared("wash.step", step_);
    writer.shared("wash.lr_share", at::scalar_tensor(lr_share_, at::kDouble));
    writer.shared("wash.plan", plan_);
    writer.shared("wash.difference", at::zeros({1000}));
  }
  void load(io::StateReader& /*reader*/) override {}

 private:
  double lr_share_;
  int64_t plan_;
  int64_t step_;
};

class WashTest : public ::testing::TestWithParam<int> {};

TEST_P(WashTest, Spec1And2RanksDoWhatOneProcessDoesAndKeepEveryPositionsValues) {
  const int num_members = GetParam();
  for (const double p : {0.0, 1e-4, 0.5, 1.0}) {
    for (const bool is_odd : {false, true}) {  // tied, cyclic and by depth; or not
      WashOptions options = with(p);
      options.is_cyclic = is_odd;
      if (is_odd) options.depth = Depth::decreasing;
      const int num_steps = p == 1e-4 ? 60 : 3;
      const auto before = reference(num_members, options, 0, is_odd);
      const auto expected = reference(num_members, options, num_steps, is_odd);
      const auto found = shuffled(num_members, options, num_steps, is_odd);
      for (size_t n = 0; n < found.size(); ++n) {
        EXPECT_TRUE(at::equal(found[n], expected[n])) << "p = " << p << ", member " << n;
      }
      EXPECT_TRUE(at::equal(sorted(found), sorted(before))) << "p = " << p;
      EXPECT_TRUE(
          at::equal(sorted(found).to(at::kDouble).mean(0), sorted(before).to(at::kDouble).mean(0)));
      EXPECT_TRUE(at::equal(sorted(found).to(at::kDouble).var(0, false),
                            sorted(before).to(at::kDouble).var(0, false)));
      if (p >= 0.5 && num_members > 2) {
        EXPECT_FALSE(at::equal(found[0], before[0]));
      }
      if (p == 0) {
        EXPECT_TRUE(at::equal(found[0], before[0]));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Members, WashTest, ::testing::Values(1, 2, 3, 5, 7, 10));

TEST(Wash, Spec4BytesAndMovedFractionAreThoseOfTheFormula) {
  constexpr int kMembers = 3, kSteps = 60;
  constexpr double kP = 0.02;
  run_members(kMembers, [&](comm::Group& group) {
    Member member(group, {{100, 100}, {100}, {50, 100}});
    Wash wash(member.parts, {.p = kP});
    double bytes = 0, moved = 0;
    const int64_t before = group.bytes_sent();
    for (int step = 0; step < kSteps; ++step) {
      const auto report = wash.after_step({.step = step}, {});
      bytes += static_cast<double>(report.bytes_sent);
      moved += static_cast<double>(report.num_mixed);
    }
    // Two comparisons of 8 bytes with two others, at the start.
    EXPECT_EQ(static_cast<double>(group.bytes_sent() - before), bytes + 2 * 2 * 8);
    // Of two layers the last one takes no part.
    const double taken = kP * 10'100 * kSteps, leaves = 1 - 1.0 / kMembers;
    EXPECT_NEAR(moved, taken * leaves, 4 * std::sqrt(taken * leaves));
    EXPECT_EQ(bytes, 4 * moved);
    EXPECT_NEAR(wash.planned_bytes_per_step() * kSteps, 4 * taken * leaves, 1e-6);
  });
}

TEST(Wash, Spec3TheSameSeedIsTheSameRun) {
  EXPECT_TRUE(
      at::equal(at::stack(shuffled(3, with(0.3), 4)), at::stack(shuffled(3, with(0.3), 4))));
}

// p goes with the learning rate; beyond 1 it is 1, and at 0 nothing is done.
TEST(Wash, FadesWithTheLearningRate) {
  run_members(2, [&](comm::Group& group) {
    Member member(group, {{100, 100}});
    WashOptions options = with(0.5);
    options.fades = true;
    const Wash wash(member.parts, options);
    const auto size_at = [&](double share) {
      return wash.plan({.step = 3, .lr_share = share}).size();
    };
    EXPECT_EQ(size_at(2), 10'000);
    EXPECT_NEAR(static_cast<double>(size_at(0.1)), 500, 4 * std::sqrt(500));
    EXPECT_FALSE(wash.is_due({.step = 3, .lr_share = 0}));
    EXPECT_TRUE(wash.is_due({.step = 3, .lr_share = 0.1}));
  });
}

TEST(Wash, KeepsToItsTiming) {
  run_members(2, [&](comm::Group& group) {
    Member member(group, {{4, 4}});
    WashOptions options = with(0.5);
    options.timing = {.interval = 3, .start_step = 2, .stop_step = 9};
    const Wash wash(member.parts, options);
    std::vector<int64_t> due;
    for (int64_t step = 0; step < 20; ++step) {
      if (wash.is_due({.step = step})) due.push_back(step);
    }
    EXPECT_EQ(due, (std::vector<int64_t>{4, 7}));
  });
}

// Each weight's moments travel with it, of as much of the vector as this rank owns.
TEST(WashOpt, Spec6MomentsStayWithTheirWeights) {
  constexpr int kMembers = 3;
  std::vector<at::Tensor> values(kMembers), moments(kMembers);
  at::Tensor buffers;
  run_members(kMembers, [&](comm::Group& group) {
    Member member(group, some_shapes());
    WashOptions options = with(0.5);
    options.moves_moments = true;
    Wash wash(member.parts, options);
    const optim::Adamw adamw({}, method::decay_segments(member.params));
    const int64_t half = member.params.size() / 2;
    optim::State first = adamw.make_state({0, half});
    optim::State second = adamw.make_state({half, member.params.size()});
    for (optim::State* state : {&first, &second}) {
      const at::Tensor own = member.values().narrow(0, state->range.begin, state->range.size());
      state->vectors[0].copy_(own * 2);
      state->vectors[1].copy_(own * 3);
      state->step = group.rank();
    }
    const std::vector<optim::State*> states = {&first, &second};
    const auto report = wash.after_step({.step = 0}, states);
    EXPECT_EQ(report.bytes_sent, 3 * 4 * report.num_mixed);
    EXPECT_EQ(first.step, group.rank());
    const auto rank = static_cast<size_t>(group.rank());
    values[rank] = member.values().clone();
    moments[rank] = at::cat({first.vectors[0], second.vectors[0]});
    EXPECT_TRUE(at::equal(moments[rank], values[rank] * 2));
    EXPECT_TRUE(at::equal(at::cat({first.vectors[1], second.vectors[1]}), values[rank] * 3));
    EXPECT_TRUE(at::equal(member.params.buffers(), at::ones({3})));
  });
  EXPECT_TRUE(at::equal(sorted(moments), sorted(values) * 2));
}

// A rank that owns a shard of the moments moves those alone.
TEST(WashOpt, MovesNoMomentsThatAreAnotherReplicas) {
  run_members(2, [&](comm::Group& group) {
    Member member(group, {{40, 40}});
    WashOptions options = with(1);
    options.moves_moments = true;
    Wash wash(member.parts, options);
    const optim::Adamw adamw({}, method::decay_segments(member.params));
    optim::State shard = adamw.make_state({400, 800});
    const std::vector<optim::State*> states = {&shard};
    shard.vectors[0].copy_(member.values().narrow(0, 400, 400));
    wash.after_step({.step = 0}, states);
    EXPECT_TRUE(at::equal(shard.vectors[0], member.values().narrow(0, 400, 400)));
  });
}

TEST(WashOpt, Spec6LeavesFrozenParametersAlone) {
  run_members(2, [&](comm::Group& group) {
    Member member(group, {{10, 10}, {10, 10}});
    member.params.parameters()[0]->tensor.set_requires_grad(false);
    Wash wash(member.parts, with(1));
    const at::Tensor before = member.values().clone();
    wash.after_step({.step = 0}, {});
    EXPECT_TRUE(at::equal(member.values().narrow(0, 0, 100), before.narrow(0, 0, 100)));
    EXPECT_FALSE(at::equal(member.values(), before));
  });
}

// One step later, as differences: the mean is that of members that were not mixed.
TEST(WashDelayed, ConservesTheMeanWhileMembersTrain) {
  constexpr int kMembers = 4;
  WashOptions options = with(0.3);
  options.is_delayed = true;
  const auto found = values_after(kMembers, [&](comm::Group& group) {
    Member member(group, some_shapes());
    Wash wash(member.parts, options);
    for (int step = 0; step < 20; ++step) {
      member.values().add_(0.125 * (group.rank() + 1));  // a training step
      wash.after_step({.step = step}, {});
    }
    return member.values();
  });
  const auto start = values_after(kMembers, [&](comm::Group& group) {
    Member member(group, some_shapes());
    return member.values().add_(20 * 0.125 * (group.rank() + 1));
  });
  EXPECT_TRUE(at::allclose(at::stack(found).mean(0), at::stack(start).mean(0), 1e-5, 1e-5));
  EXPECT_FALSE(at::allclose(found[0], start[0]));
}

// Where members do not move in between, it is the shuffle, a step late and to rounding.
TEST(WashDelayed, IsTheShuffleOfMembersAtRest) {
  WashOptions options = with(0.5);
  const auto now = shuffled(3, options, 1);
  options.is_delayed = true;
  options.timing.stop_step = 1;
  const auto later = shuffled(3, options, 2);
  for (size_t n = 0; n < now.size(); ++n) {
    EXPECT_TRUE(at::allclose(now[n], later[n], 1e-5, 1e-6));
  }
}

TEST(WashDelayed, Spec3ResumesWithWhatIsOnItsWay) {
  WashOptions options = with(0.3);
  options.is_delayed = true;
  options.timing.stop_step = 7;  // nothing is on its way at the end: both use one group
  run_members(3, [&](comm::Group& group) {
    const auto train = [&](Member& member, Wash& wash, int from, int to) {
      for (int step = from; step < to; ++step) {
        member.values().mul_(0.9).add_(0.1 * group.rank());
        wash.after_step({.step = step}, {});
      }
    };
    Member straight(group, some_shapes());
    Wash wash(straight.parts, options);
    train(straight, wash, 0, 4);
    method::testing::MemoryCheckpoint checkpoint;
    checkpoint.save(0, wash);
    const at::Tensor saved = straight.values().clone();
    train(straight, wash, 4, 8);

    Member resumed(group, some_shapes());
    Wash again(resumed.parts, options);
    checkpoint.load(0, again);
    resumed.values().copy_(saved);
    train(resumed, again, 4, 8);
    EXPECT_TRUE(at::equal(resumed.values(), straight.values()));
  });
}

TEST(WashDelayed, RefusesAStateThatCannotBe) {
  WashOptions options = with(0.001);
  options.fades = options.is_delayed = true;
  run_members(2, [&](comm::Group& group) {
    Member member(group, some_shapes());
    Wash wash(member.parts, options);
    const auto error_with = [&](double lr_share, int64_t plan, int64_t step = 3) -> std::string {
      method::testing::MemoryCheckpoint checkpoint;
      checkpoint.save(0, ForgedWash(lr_share, plan, step));
      try {
        checkpoint.load(0, wash);
      } catch (const DataError& error) {
        return error.what();
      }
      return "no error";
    };
    for (const double lr_share : {1e9, 1.5, -0.5, -HUGE_VAL, std::nan("")}) {
      EXPECT_THAT(error_with(lr_share, 0), HasSubstr("that cannot be")) << lr_share;
    }
    for (const int64_t step : {int64_t{-1}, int64_t{1} << 32, int64_t{1} << 62}) {
      EXPECT_THAT(error_with(0.5, 0, step), HasSubstr("that cannot be")) << step;
    }
    EXPECT_THAT(error_with(0.5, 12345), HasSubstr("of another plan than this recipe's"));
    const auto hash = static_cast<int64_t>(wash.plan({.step = 3, .lr_share = 0.5}).hash());
    EXPECT_THAT(error_with(0.5, hash), HasSubstr("of another plan than this recipe's"));
    // What was refused left nothing behind.
    EXPECT_FALSE(wash.is_due({.step = 3, .lr_share = 0}));
  });
}

// All ranks, and none waits for a message that does not come.
TEST(Wash, Spec7MembersThatDifferAreAnErrorOnEveryRank) {
  const auto error_of = [](const std::function<Member(comm::Group&)>& make, bool is_by_settings) {
    std::vector<std::string> errors(3);
    run_members(3, [&](comm::Group& group) {
      Member member = make(group);
      WashOptions options = with(0.5);
      if (is_by_settings && group.rank() == 1) options.timing.interval = 2;
      Wash wash(member.parts, options);
      try {
        wash.after_step({.step = 1}, {});
      } catch (const ConfigError& error) {
        errors[static_cast<size_t>(group.rank())] = error.what();
      }
    });
    EXPECT_EQ(errors[0], errors[1]);
    EXPECT_EQ(errors[0], errors[2]);
    return errors[0];
  };
  const auto alike = [](comm::Group& group) { return Member(group, {{4, 4}}); };
  EXPECT_THAT(error_of(alike, true), HasSubstr("ranks differ in their parameters, seed"));
  EXPECT_THAT(error_of(
                  [](comm::Group& group) {
                    return Member(group, {{4, 4}}, false, group.rank() == 2 ? 7 : 1);
                  },
                  false),
              HasSubstr("rank 2"));
  EXPECT_THAT(error_of(
                  [](comm::Group& group) {
                    return Member(group, group.rank() == 2 ? testing::Shapes{{2, 8}}
                                                           : testing::Shapes{{4, 4}});
                  },
                  false),
              HasSubstr("ranks differ in their parameters"));
}

TEST(WashOptions, WrongOnesAreRefused) {
  const auto complaint = [](const std::string& keys, bool moves_moments = false) -> std::string {
    auto settings = io::Settings::from_text("[ensemble]\n" + keys, "my.toml");
    io::Section section = settings.section("ensemble");
    try {
      WashOptions::read(section, moves_moments);
      settings.require_all_used();
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(complaint("p = 1.5"), HasSubstr("ensemble.p is 1.5"));
  EXPECT_THAT(complaint("p = -0.1"), HasSubstr("ensemble.p is -0.1"));
  EXPECT_THAT(complaint("depth = \"shallow\""), HasSubstr("decreasing"));
  EXPECT_THAT(complaint("start_step = 5\nstop_step = 5"),
              HasSubstr("ensemble.stop_step is 5, not behind ensemble.start_step = 5"));
  EXPECT_THAT(complaint("delayed = true", true),
              HasSubstr("my.toml:2:1: ensemble \"wash_opt\" is never delayed"));
  EXPECT_EQ(complaint("delayed = false", true), "no error") << "as a run of wash has it";
  EXPECT_THAT(complaint("depth_factors = [1, 0.5]"),
              HasSubstr("my.toml:2:1: ensemble.depth_factors is for ensemble.depth = \"custom\", "
                        "and here it is \"decreasing\""));
  EXPECT_EQ(complaint("p = 0.1\np_schedule = \"with_lr\"\npermutation = \"cyclic\"\n"
                      "delayed = true\ninterval = 3"),
            "no error");
}

// Of another choice, which the command line replaces.
TEST(WashOptions, ABasesKeysForAnotherMethodAreLeftOut) {
  auto settings = io::Settings::from_text("[ensemble]\nname = 'wash'\ndelayed = true", "my.toml",
                                          {"ensemble.name=wash_opt"});
  io::Section section = settings.section("ensemble");
  section.text("name", "none");
  EXPECT_FALSE(WashOptions::read(section, true).is_delayed);
  EXPECT_NO_THROW(settings.require_all_used());
}

}  // namespace
}  // namespace outstep::ensemble
