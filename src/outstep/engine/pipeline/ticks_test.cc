#include <thread>

#include "outstep/engine/pipeline/testing.h"
#include "outstep/nn/coupling.h"

// The specification's tests 1, 2, 3, 5, 6 and 7, by number.

namespace outstep::engine {
namespace {

using testing::basic_revnet;
using testing::bottleneck_revnet;
using testing::revgpt;
using testing::revvit;
using testing::Setting;
using testing::TickSimulator;
using testing::Trajectory;

const std::vector<std::string> kTickModes = {"petra",     "delayed",          "dsp",
                                             "pipedream", "reversible_stash", "approx_input"};

double difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item<double>();
}

void expect_same_bits(const Trajectory& found, const Trajectory& expected) {
  ASSERT_EQ(found.values.size(), expected.values.size());
  for (size_t j = 0; j < found.values.size(); ++j) {
    for (size_t s = 0; s < found.values[j].size(); ++s) {
      ASSERT_TRUE(at::equal(found.gradients[j][s], expected.gradients[j][s]))
          << "gradient of stage " << j << ", step " << s << ": off by "
          << difference(found.gradients[j][s], expected.gradients[j][s]);
      ASSERT_TRUE(at::equal(found.values[j][s], expected.values[j][s]))
          << "parameters of stage " << j << ", step " << s;
    }
  }
  EXPECT_EQ(found.losses, expected.losses);
}

struct Case {
  std::string name;
  Setting setting;
};

std::vector<Case> cases() {
  std::vector<Case> cases;
  for (const std::string& mode : kTickModes) {
    cases.push_back({mode, {.mode = mode}});
    cases.push_back({mode + "_k2", {.mode = mode, .accumulation = 2, .steps = 4}});
    cases.push_back({mode + "_three_stages", {.mode = mode, .cut = {2, 3, 2}}});
    cases.push_back(
        {mode + "_bottleneck", {.make_model = bottleneck_revnet, .mode = mode, .cut = {3, 2, 2}}});
    cases.push_back({mode + "_dropout", {.make_model = revgpt, .mode = mode, .cut = {2, 2, 2}}});
    cases.push_back({mode + "_vit", {.make_model = revvit, .mode = mode, .cut = {1, 4, 1}}});
    cases.push_back({mode + "_fp64", {.mode = mode, .cut = {3, 4}, .precision = Precision::fp64}});
  }
  cases.push_back({"petra_k3", {.cut = {2, 2, 3}, .accumulation = 3, .steps = 4}});
  cases.push_back(
      {"petra_forward_statistics", {.cut = {3, 2, 2}, .statistics_in = StatisticsIn::forward}});
  return cases;
}

class Ticks : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Modes, Ticks, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(Ticks, Spec5RanksAreTheSimulatorBitForBit) {
  TickSimulator simulator(GetParam().setting);
  expect_same_bits(testing::train(GetParam().setting), simulator.run());
}

TEST(Pipeline, Spec5SlowStagesChangeNothing) {
  for (const std::string& mode : kTickModes) {
    const Setting setting{.mode = mode, .cut = {3, 2, 2}, .steps = 4};
    TickSimulator simulator(setting);
    const auto dawdle = [](int stage, int64_t step) {
      std::this_thread::sleep_for(std::chrono::milliseconds((stage * 7 + step * 5) % 11));
    };
    expect_same_bits(testing::train(setting, dawdle), simulator.run());
  }
}

// The gradient of each micro-batch by ordinary backpropagation, at parameters that do not change.
std::vector<at::Tensor> exact_gradients(const Setting& setting, int stage) {
  auto model = setting.make_model();
  nn::FlatParams params(*model, 1, {.dtype = dtype_of(setting.precision)});
  data::Stream stream(std::make_shared<testing::Examples>(*model),
                      {.micro_batch = 4, .prefetch = 0});
  std::vector<at::Tensor> gradients;
  const nn::BlockRange blocks = blocks_of(setting.cut, stage);
  for (int64_t m = 0; m < setting.steps; ++m) {
    params.zero_gradients();
    const data::Batch batch = placed(
        stream.next(),
        {.dtype = dtype_of(setting.precision), .channels_last = model->prefers_channels_last()});
    nn::ForwardContext context{.training = true, .seed = 1, .micro_batch = batch.index};
    model->loss(model->forward(batch.inputs, context), batch.targets).loss.backward();
    std::vector<at::Tensor> own;
    for (size_t i = 0; i < params.entries().size(); ++i) {
      const auto block = static_cast<size_t>(params.entries()[i].block);
      if (block < blocks.begin || block >= blocks.end) continue;
      const int64_t end =
          i + 1 < params.entries().size() ? params.entries()[i + 1].offset : params.size();
      own.push_back(params.gradients()
                        .narrow(0, params.entries()[i].offset, end - params.entries()[i].offset)
                        .clone());
    }
    gradients.push_back(at::cat(own));
  }
  return gradients;
}

TEST(Pipeline, Spec1AtRestGradientsAreExact) {
  for (const auto& make : {basic_revnet, bottleneck_revnet, revgpt, revvit}) {
    Setting setting{.make_model = make, .lr = 0, .precision = Precision::fp64};
    setting.cut.resize(make()->blocks.size());
    const Trajectory found = testing::train(setting);
    for (int j = 0; j < setting.num_stages(); ++j) {
      const auto expected = exact_gradients(setting, j);
      for (size_t m = 0; m < expected.size(); ++m) {
        // Biases before a batch norm have a gradient of rounding errors alone.
        const double off = (found.gradients[size_t(j)][m] - expected[m]).abs().max().item<double>();
        EXPECT_LT(off, 1e-12) << "stage " << j << ", micro-batch " << m;
      }
    }
  }
}

// One process of ordinary backpropagation with accumulation.
Trajectory accumulated_sgd(const Setting& setting) {
  Setting whole = setting;
  whole.mode = "gpipe";
  whole.cut = {7};
  return testing::train(whole);
}

TEST(Pipeline, Spec2OneStageIsAccumulatedSgdBitForBit) {
  for (const std::string& mode : {"petra", "delayed", "1f1b", "dsp", "pipedream"}) {
    const Setting setting{.mode = mode, .cut = {7}, .accumulation = 3, .steps = 4};
    expect_same_bits(testing::train(setting), accumulated_sgd(setting));
  }
}

// Flushed after every step, ticks are synchronous: the gradients are exact, with rebuilt inputs to
// rounding.
TEST(Pipeline, Spec2DrainedStepsAreThoseOfBackpropagation) {
  for (const std::string& mode : kTickModes) {
    const Setting setting{.mode = mode,
                          .cut = {2, 3, 2},
                          .accumulation = 4,
                          .steps = 3,
                          .precision = Precision::fp64,
                          .flush_every = 4};
    const Trajectory found = testing::train(setting), whole = accumulated_sgd(setting);
    for (size_t s = 0; s < 3; ++s) {
      const at::Tensor joined =
          at::cat({found.values[0][s], found.values[1][s], found.values[2][s]});
      EXPECT_LT(difference(joined, whole.values[0][s]), 1e-12) << mode << ", step " << s;
    }
  }
}

TEST(Pipeline, Spec3StalenessAndFirstTicksAreThoseOfTheSpecification) {
  for (const Cut& cut : {Cut{7}, Cut{4, 3}, Cut{2, 3, 2}, Cut{1, 1, 1, 1, 1, 1, 1}}) {
    for (const int64_t k : {1, 2, 3}) {
      const Setting setting{.cut = cut, .accumulation = k, .steps = 12 / k + 4};
      const Trajectory found = testing::train(setting);
      TickSimulator simulator(setting);
      simulator.run();
      const int64_t J = setting.num_stages();
      for (int64_t j = 1; j <= J; ++j) {  // as the paper counts
        const int64_t delay = 2 * (J - j);
        EXPECT_EQ(simulator.first_backward(size_t(j - 1)), j == J ? J - 1 : 2 * J - 1 - j);
        EXPECT_EQ(simulator.fifo_peak(size_t(j - 1)), size_t(delay + 1));
        const auto& staleness = found.staleness[size_t(j - 1)];
        EXPECT_EQ(staleness.front(), 0);
        // ⌊τ/k⌋ or ⌈τ/k⌉ updates come between, once the pipeline is full.
        for (size_t s = staleness.size() - 3; s < staleness.size(); ++s) {
          EXPECT_GE(staleness[s], delay / k) << "J " << J << ", j " << j << ", k " << k;
          EXPECT_LE(staleness[s], (delay + k - 1) / k) << "J " << J << ", j " << j << ", k " << k;
        }
      }
    }
  }
}

TEST(Pipeline, Spec6AtRestAllModesCoincide) {
  const auto run = [](const std::string& mode) {
    return testing::train({.mode = mode, .cut = {2, 3, 2}, .lr = 0, .precision = Precision::fp64});
  };
  const Trajectory expected = run("petra");
  for (const std::string& mode : pipeline_mode_names()) {
    const Trajectory found = run(mode);
    for (size_t j = 0; j < 3; ++j) {
      for (size_t s = 0; s < found.gradients[j].size(); ++s) {
        const double off =
            (found.gradients[j][s] - expected.gradients[j][s]).abs().max().item<double>();
        EXPECT_LT(off, 1e-12) << mode << ", stage " << j;
      }
    }
  }
}

TEST(Pipeline, Spec6MovingModesDiffer) {
  std::map<std::string, Trajectory> runs;
  for (const std::string& mode : kTickModes) {
    runs.emplace(mode, testing::train({.mode = mode, .cut = {2, 3, 2}, .steps = 8}));
  }
  for (const std::string& mode : {"dsp", "pipedream", "reversible_stash", "approx_input"}) {
    EXPECT_GT(difference(runs.at(mode).values[0].back(), runs.at("petra").values[0].back()), 1e-4)
        << mode;
  }
  // Stashed input and parameters, rebuilt exactly or kept: the same gradients to rounding.
  EXPECT_LT(difference(runs.at("reversible_stash").values[0].back(),
                       runs.at("pipedream").values[0].back()),
            1e-3);
  EXPECT_LT(difference(runs.at("delayed").values[0].back(), runs.at("pipedream").values[0].back()),
            1e-3);
}

TEST(Pipeline, Spec7StatisticsMoveOnceAMicroBatch) {
  for (const std::string& mode : pipeline_mode_names()) {
    for (const auto rule : {StatisticsIn::backward, StatisticsIn::forward}) {
      Setting setting{.mode = mode, .cut = {2, 3, 2}, .steps = 5, .lr = 0, .statistics_in = rule};
      const Trajectory found = testing::train(setting);
      // One process that makes one pass a micro-batch moves them as far. Where the rule says
      // forward, a stage has moved them for the micro-batches in flight as well.
      const bool counts_forward =
          pipeline_mode(mode).order == Order::ticks &&
          (rule == StatisticsIn::forward || pipeline_mode(mode).buffering.keep == Keep::graph);
      for (size_t j = 0; j < 3; ++j) {
        Setting alone = setting;
        alone.mode = "gpipe";
        alone.cut = {7};
        alone.steps = 5 + (counts_forward ? 2 * int64_t(2 - j) : 0);
        const at::Tensor all = testing::train(alone).buffers[0];
        auto model = setting.make_model();
        const nn::FlatParams whole(*model, 1);
        const nn::BlockRange blocks = blocks_of(setting.cut, int(j));
        int64_t begin = 0, size = 0;
        for (const auto& entry : whole.buffer_entries()) {
          const auto block = static_cast<size_t>(entry.block);
          if (block < blocks.begin) begin += entry.numel;
          if (block >= blocks.begin && block < blocks.end) size += entry.numel;
        }
        if (size == 0) continue;
        EXPECT_LT(difference(found.buffers[j], all.narrow(0, begin, size)), 1e-5)
            << mode << ", stage " << j;
      }
    }
  }
}

}  // namespace
}  // namespace outstep::engine
