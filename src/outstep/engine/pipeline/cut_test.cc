#include "outstep/engine/pipeline/cut.h"

#include "outstep/engine/pipeline/testing.h"
#include "outstep/nn/gpt2.h"

namespace outstep::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string complaint(const nn::Model& model, const Cut& cut, int num_stages) {
  try {
    require_cuts(model, cut, num_stages, "my.toml:3:1");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(Cut, GivesEachStageItsBlocks) {
  const Cut cut = {3, 4, 3};
  EXPECT_EQ(blocks_of(cut, 0).begin, 0u);
  EXPECT_EQ(blocks_of(cut, 1).begin, 3u);
  EXPECT_EQ(blocks_of(cut, 2).end, 10u);
}

TEST(Cut, RefusesWhatIsNone) {
  const auto model = testing::basic_revnet();
  EXPECT_EQ(complaint(*model, {3, 4}, 2), "");
  EXPECT_THAT(
      complaint(*model, {3, 3}, 2),
      HasSubstr("engine.stages = [3, 3] must be numbers of blocks, 1 or more each, that add "
                "up to the 7 of model \"revnet\""));
  EXPECT_THAT(complaint(*model, {7, 0}, 2), HasSubstr("1 or more each"));
  EXPECT_THAT(complaint(*model, {7}, 2),
              HasSubstr("engine.stages has 1 number, but mesh.stages is 2"));
  EXPECT_THAT(complaint(*model, {}, 8), HasSubstr("mesh.stages = 8 is more than the 7 blocks"));
  const nn::Gpt2 tied({.vocab_size = 5, .n_positions = 8, .n_embd = 8, .n_layer = 1, .n_head = 1});
  EXPECT_THAT(complaint(tied, {2, 1}, 2),
              HasSubstr("parameter \"transformer.wte.weight\" is tied across stages 0 and 1"));
  EXPECT_EQ(complaint(tied, {3}, 1), "");
  // Before anything is measured.
  EXPECT_NO_THROW(require_untied(*model, "my.toml:3:1"));
  EXPECT_THAT([&] { require_untied(tied, "my.toml:7:1"); },
              ::testing::ThrowsMessage<ConfigError>(
                  HasSubstr("my.toml:7:1: parameter \"transformer.wte.weight\" is tied across "
                            "blocks 0 and 2")));
}

// A stage before the last costs forward twice and backward; the last one, with its graph, once.
TEST(Cut, BalancesTheModesOwnCosts) {
  const std::vector<BlockCost> even(14, {.forward_seconds = 1, .backward_seconds = 2});
  EXPECT_EQ(stage_seconds(even, {0, 6}, pipeline_mode("petra"), false), 24);
  EXPECT_EQ(stage_seconds(even, {6, 14}, pipeline_mode("petra"), true), 24);
  EXPECT_EQ(stage_seconds(even, {6, 14}, pipeline_mode("reversible"), true), 31);
  EXPECT_THAT(balanced_cut(even, 2, pipeline_mode("petra")), ElementsAre(6, 8));  // 3/7 : 4/7
  const std::vector<BlockCost> reversible(
      14, {.forward_seconds = 1, .backward_seconds = 2, .is_reversible = true});
  EXPECT_EQ(stage_seconds(reversible, {0, 6}, pipeline_mode("petra"), false), 24);
  // Rebuilt with one set of parameters, differentiated at another.
  EXPECT_EQ(stage_seconds(reversible, {0, 6}, pipeline_mode("approx_input"), false), 30);
  EXPECT_THAT(balanced_cut(even, 2, pipeline_mode("gpipe")), ElementsAre(7, 7));
  EXPECT_THAT(balanced_cut(even, 1, pipeline_mode("petra")), ElementsAre(14));
  const std::vector<BlockCost> uneven = {{9, 0}, {1, 0}, {1, 0}, {1, 0}};
  EXPECT_THAT(balanced_cut(uneven, 2, pipeline_mode("delayed")), ElementsAre(1, 3));
  EXPECT_THAT(balanced_cut(uneven, 4, pipeline_mode("delayed")), ElementsAre(1, 1, 1, 1));
}

TEST(Cut, MeasuresEveryBlock) {
  for (const auto& make : {testing::basic_revnet, testing::revgpt, testing::revvit}) {
    const auto model = make();
    const auto costs =
        measure_blocks(*model, model->example_input(4), model->example_target(4), {});
    ASSERT_EQ(costs.size(), model->blocks.size());
    for (const BlockCost& cost : costs) EXPECT_GT(cost.forward_seconds, 0);
  }
}

}  // namespace
}  // namespace outstep::engine
