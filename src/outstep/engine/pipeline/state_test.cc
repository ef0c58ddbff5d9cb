#include <atomic>

#include "outstep/engine/pipeline/testing.h"
#include "outstep/method/testing.h"

// The specification's test 8, what a stage keeps, and what it refuses.

namespace outstep::engine {
namespace {

using method::testing::MemoryCheckpoint;
using ::testing::AnyOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using testing::Setting;
using testing::StageRank;

class Resumed : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Modes, Resumed, ::testing::ValuesIn(pipeline_mode_names()),
                         [](const auto& tested) { return "mode_" + tested.param; });

// With everything in flight, without draining.
TEST_P(Resumed, Spec8GoesOnBitForBit) {
  for (const auto& make : {testing::basic_revnet, testing::revgpt, testing::revvit}) {
    for (const int64_t k : {1, 2}) {
      Setting setting{.make_model = make, .mode = GetParam(), .cut = {2, 2}, .accumulation = k};
      setting.cut.push_back(std::ssize(make()->blocks) - 4);
      comm::run_local_ranks(3, [&](comm::Group& group) {
        const auto fresh = [&] { return std::make_unique<StageRank>(setting, group); };
        auto straight = fresh();
        for (int s = 0; s < 4; ++s) straight->step();
        straight->engine.pause();
        MemoryCheckpoint checkpoint;
        checkpoint.save(0, straight->engine);
        const at::Tensor momentum = straight->state.vectors.front().clone();
        const at::Tensor values = straight->params.values().clone();
        for (int s = 0; s < 4; ++s) straight->step();
        straight->engine.pause();

        auto resumed = fresh();
        resumed->params.values().detach().copy_(values);
        resumed->params.mark_changed();
        checkpoint.load(0, resumed->engine);
        resumed->state.vectors.front().copy_(momentum);
        resumed->state.step = 4;
        for (int s = 0; s < 4; ++s) resumed->step();
        resumed->engine.pause();
        EXPECT_TRUE(at::equal(resumed->params.values(), straight->params.values()))
            << "stage " << group.rank() << ", k " << k;
        EXPECT_TRUE(at::equal(resumed->params.buffers(), straight->params.buffers()));
      });
    }
  }
}

// What is kept does not depend on depth, nor on how many micro-batches are in flight.
TEST(Pipeline, ReversibleStagesKeepNothing) {
  for (const Cut& cut : {Cut{1, 1, 1, 1, 1, 1, 1}, Cut{1, 2, 4}, Cut{3, 4}}) {
    const Setting setting{.cut = cut, .steps = 5};
    comm::run_local_ranks(setting.num_stages(), [&](comm::Group& group) {
      StageRank rank(setting, group);
      for (int s = 0; s < 5; ++s) rank.step();
      const nn::BlockRange blocks = rank.params.blocks();
      bool is_reversible = true;
      for (size_t b = blocks.begin; b < blocks.end; ++b) {
        is_reversible = is_reversible && rank.model->blocks[b]->is_reversible();
      }
      const auto report = rank.engine.take_report();
      if (is_reversible) {
        EXPECT_EQ(report.kept_bytes, 0) << "stage " << group.rank();
      } else {
        EXPECT_GT(report.kept_bytes, 0) << "stage " << group.rank();
      }
      rank.engine.pause();
    });
  }
}

// A first stage holds inputs of its stem: 2 (J - j) + 1 micro-batches of them at most.
TEST(Pipeline, Spec3KeepsAsManyInputsAsTheSpecificationSays) {
  const Setting setting{.cut = {1, 2, 4}, .steps = 8};
  comm::run_local_ranks(3, [&](comm::Group& group) {
    StageRank rank(setting, group);
    for (int s = 0; s < 8; ++s) rank.step();
    if (group.rank() == 0) {
      const int64_t image_bytes = 4 * 3 * 8 * 8 * 4;  // a micro-batch of 4, float32
      EXPECT_EQ(rank.engine.take_report().kept_bytes, 5 * image_bytes);
      EXPECT_EQ(rank.engine.stage().num_kept(), 4);
    }
    rank.engine.pause();
  });
}

// What the neighbour of a stage sees of it.
TEST(Pipeline, AStageThatFailsEndsItsNeighboursByName) {
  const Setting setting{.cut = {2, 2, 3}};
  std::mutex mutex;
  std::map<int, std::string> errors;
  try {
    comm::run_local_ranks(3, [&](comm::Group& group) {
      StageRank rank(setting, group);
      try {
        for (int s = 0; s < 20; ++s) {
          if (group.rank() == 1 && s == 3) throw std::runtime_error("stage 1 had enough");
          rank.step();
        }
      } catch (const std::exception& error) {
        const std::lock_guard lock(mutex);
        errors[group.rank()] = error.what();
        throw;
      }
    });
  } catch (const std::exception&) {
  }
  EXPECT_THAT(errors[0],
              AnyOf(ContainsRegex("waiting for gradients of micro-batch [0-9]+ from stage 1"),
                    HasSubstr("to stage 1 (rank 1")));
  EXPECT_THAT(errors[2],
              AnyOf(ContainsRegex("waiting for activations of micro-batch [0-9]+ from stage 1"),
                    HasSubstr("to stage 1 (rank 1")));
}

// In ticks, and free, where it waits for whichever neighbour comes first.
class Silence : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Credits, Silence, ::testing::Values(0, 2));

TEST_P(Silence, IsNamedWhenTheDeadlineHasPassed) {
  const Setting setting{.cut = {3, 4}, .credits = GetParam()};
  std::string text;
  std::atomic<bool> has_failed = false;
  try {
    comm::run_local_ranks(
        2,
        [&](comm::Group& group) {
          StageRank rank(setting, group);
          if (group.rank() == 1) {  // there, but silent
            has_failed.wait(false);
            return;
          }
          try {
            rank.step();
          } catch (const CommError& error) {
            text = error.what();
          }
          has_failed = true;
          has_failed.notify_all();
        },
        std::chrono::milliseconds(200));
  } catch (const CommError&) {
  }
  EXPECT_THAT(text, HasSubstr("waiting for gradients of micro-batch 0 from stage 1 (rank 1"));
  EXPECT_THAT(text, HasSubstr("nothing came, "));
  EXPECT_THAT(text, HasSubstr(" s of 0.2 s"));
}

// Whoever waits for a silent stage loses patience after those between the two.
TEST(Link, IsPatientWithAllStagesThatMayBeWaitedFor) {
  comm::run_local_ranks(
      4,
      [](comm::Group& group) {
        const auto patience = [&](Towards towards) {
          return Link(group, {.towards = towards}).patience().count();
        };
        if (group.rank() < 3) {
          EXPECT_EQ(patience(Towards::next), 700 * (3 - group.rank()));
        }
        if (group.rank() > 0) {
          EXPECT_EQ(patience(Towards::previous), 700 * group.rank());
        }
      },
      std::chrono::milliseconds(700));
}

// A hostile or foreign header is refused before anything of its size is allocated.
TEST(Message, RefusesHeadersThatNoStageMakes) {
  const Message message{
      .kind = Message::Kind::gradients, .micro_batch = 1, .gradient = {.x = at::zeros({2, 3})}};
  const at::Tensor good = header_of(message);
  const Message again = message_of(good, at::kCPU, "stage 1");
  EXPECT_EQ(again.gradient.x.sizes(), (std::vector<int64_t>{2, 3}));
  EXPECT_FALSE(again.streams.x.defined());
  for (int64_t i = 5; i < kHeaderSize; ++i) {
    for (const int64_t value : {int64_t{-7}, int64_t{1} << 50, int64_t{77}}) {
      at::Tensor header = good.clone();
      if (header[i].item<int64_t>() == value) continue;
      header[i] = value;
      try {
        message_of(header, at::kCPU, "stage 1");
      } catch (const CommError&) {
      }
    }
  }
}

TEST(Message, KeepsTheLayoutOfImages) {
  const at::Tensor images = at::rand({2, 3, 4, 4}).contiguous(at::MemoryFormat::ChannelsLast);
  const Message message{.kind = Message::Kind::activations, .streams = {.x = images}};
  const Message again = message_of(header_of(message), at::kCPU, "stage 1");
  EXPECT_TRUE(again.streams.x.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_EQ(message.num_bytes(), 2 * 3 * 4 * 4 * 4);
}

}  // namespace
}  // namespace outstep::engine
