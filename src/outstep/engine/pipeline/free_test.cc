#include "outstep/engine/pipeline/testing.h"
#include "outstep/method/testing.h"

// Stages that run freely: what arrives first decides what they do.

namespace outstep::engine {
namespace {

using testing::Setting;
using testing::StageRank;

// With one micro-batch at a time nothing is ever stale: the synchronous schedule, bit for bit.
TEST(Free, OneCreditIsTheSynchronousPipeline) {
  for (const auto& make : {testing::basic_revnet, testing::revgpt}) {
    for (const bool last_keeps_graph : {true, false}) {
      for (const int64_t k : {1, 3}) {
        Setting setting{.make_model = make,
                        .cut = {2, 2},
                        .accumulation = k,
                        .last_keeps_graph = last_keeps_graph,
                        .credits = 1};
        setting.cut.push_back(std::ssize(make()->blocks) - 4);
        const auto free = testing::train(setting);
        setting.credits = 0;
        setting.mode = "reversible";
        const auto synchronous = testing::train(setting);
        for (size_t j = 0; j < 3; ++j) {
          EXPECT_EQ(*std::ranges::max_element(free.staleness[j]), 0);
          EXPECT_TRUE(at::equal(free.values[j].back(), synchronous.values[j].back())) << j;
          EXPECT_TRUE(at::equal(free.buffers[j], synchronous.buffers[j])) << j;
        }
      }
    }
  }
}

// Whatever stages are slow, at most so many micro-batches are between their two passes, and each
// goes back once, in its turn.
TEST(Free, CreditsBoundStaleness) {
  for (const int64_t credits : {2, 3, 5, 9}) {
    Setting setting{.cut = {2, 2, 3}, .steps = 12, .credits = credits};
    const auto trajectory = testing::train(setting, testing::dawdle);
    for (const auto& of_stage : trajectory.staleness) {
      ASSERT_EQ(of_stage.size(), 12U);
      EXPECT_LE(*std::ranges::max_element(of_stage), credits - 1);
    }
    EXPECT_EQ(*std::ranges::max_element(trajectory.staleness.back()), 0);
  }
}

// The order in which passes are made does not show where nothing changes.
TEST(Free, WithoutUpdatesGradientsAreThoseOfTicks) {
  Setting setting{.cut = {2, 2, 3}, .accumulation = 2, .lr = 0, .precision = Precision::fp64};
  const auto ticks = testing::train(setting);
  setting.credits = 4;
  const auto free = testing::train(setting);
  for (size_t j = 0; j < 3; ++j) {
    for (size_t s = 0; s < free.gradients[j].size(); ++s) {
      EXPECT_TRUE(at::allclose(free.gradients[j][s], ticks.gradients[j][s], 1e-10, 1e-12));
    }
  }
}

// With what was in flight, of which nothing is lost and nothing made twice.
TEST(Free, GoesOnWhereItWasSaved) {
  const Setting setting{.cut = {2, 2, 3}, .credits = 4};
  comm::run_local_ranks(3, [&](comm::Group& group) {
    StageRank rank(setting, group);
    for (int s = 0; s < 5; ++s) rank.step();
    rank.engine.pause();
    method::testing::MemoryCheckpoint checkpoint;
    checkpoint.save(0, rank.engine);

    StageRank resumed(setting, group);
    resumed.params.values().detach().copy_(rank.params.values());
    resumed.params.mark_changed();
    checkpoint.load(0, resumed.engine);
    for (int s = 0; s < 5; ++s) resumed.step();
    resumed.engine.pause();
    if (group.rank() == 0) {
      EXPECT_EQ(resumed.stream.num_drawn(), 10 + resumed.engine.stage().num_kept());
    }
    if (group.rank() == 2) {
      EXPECT_EQ(resumed.stream.num_drawn(), 10);
    }
  });
}

}  // namespace
}  // namespace outstep::engine
