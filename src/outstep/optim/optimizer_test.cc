#include "outstep/optim/optimizer.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "outstep/base/rng.h"
#include "outstep/optim/adamw.h"
#include "outstep/optim/sgd.h"

namespace outstep::optim {
namespace {

constexpr int64_t kSize = 1000;

// Two tensors that decay, one that does not, padding between and behind them; sizes that are no
// multiple of anything.
std::vector<Segment> segments() {
  return {{{0, 401}, true}, {{416, 449}, false}, {{464, 987}, true}};
}

std::vector<Kernels> kernels_here() {
  std::vector<Kernels> result{Kernels::operators, Kernels::baseline};
  if (best_kernels() >= Kernels::avx2) result.push_back(Kernels::avx2);
  if (best_kernels() >= Kernels::avx512) result.push_back(Kernels::avx512);
  return result;
}

// An optimizer under test, made anew for each choice of kernels.
struct Case {
  std::string name;
  std::unique_ptr<Optimizer> (*make)(std::vector<Segment>, Kernels);
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

template <typename Class, auto kOptions>
std::unique_ptr<Optimizer> make(std::vector<Segment> where, Kernels kernels) {
  return std::make_unique<Class>(kOptions, std::move(where), kernels);
}

const Case kCases[] = {
    {"sgd", make<Sgd, SgdOptions{.momentum = 0, .weight_decay = 0.1}>},
    {"momentum", make<Sgd, SgdOptions{.momentum = 0.9, .weight_decay = 0.1}>},
    {"nesterov", make<Sgd, SgdOptions{.momentum = 0.9, .nesterov = true}>},
    {"adamw", make<Adamw, AdamwOptions{.weight_decay = 0.1}>},
};

at::Tensor random(int64_t size, uint64_t stream) {
  at::Tensor values = at::empty({size}, at::kFloat);
  fill_normal(values, 0, 1, {.seed = 1, .purpose = purpose("optim.test"), .stream = stream});
  return values;
}

struct Outcome {
  at::Tensor params;
  State state;
};

// Three updates of [0, kSize), each piece between two cuts by itself.
Outcome run(const Optimizer& optimizer, std::vector<int64_t> cuts = {}) {
  Outcome outcome{.params = random(kSize, 0), .state = optimizer.make_state({0, kSize})};
  cuts.insert(cuts.begin(), 0);
  cuts.push_back(kSize);
  for (int64_t step = 0; step < 3; ++step) {
    const at::Tensor gradient = random(kSize, 1 + step);
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const Range range{cuts[i], cuts[i + 1]};
      const auto cut = [&](const at::Tensor& t) { return t.narrow(0, range.begin, range.size()); };
      State part = outcome.state.part(range);
      part.step = step;
      optimizer.update({.gradient = cut(gradient),
                        .gradient_scale = 0.25,
                        .lr = 0.01,
                        .params_in = cut(outcome.params),
                        .params_out = cut(outcome.params),
                        .state_in = &part,
                        .state_out = &part});
      EXPECT_EQ(part.step, step + 1);
    }
  }
  outcome.state.step = 3;
  return outcome;
}

void expect_equal(const Outcome& a, const Outcome& b) {
  EXPECT_TRUE(at::equal(a.params, b.params));
  ASSERT_EQ(a.state.vectors.size(), b.state.vectors.size());
  for (size_t i = 0; i < a.state.vectors.size(); ++i) {
    EXPECT_TRUE(at::equal(a.state.vectors[i], b.state.vectors[i])) << a.state.names[i];
  }
}

class OptimizerContract : public testing::TestWithParam<Case> {
 protected:
  std::unique_ptr<Optimizer> make(Kernels kernels = best_kernels()) const {
    return GetParam().make(segments(), kernels);
  }
};

TEST_P(OptimizerContract, GivesTheSameBitsWithEveryKernel) {
  const Outcome reference = run(*make(Kernels::operators));
  for (Kernels kernels : kernels_here()) {
    SCOPED_TRACE(to_string(kernels));
    expect_equal(run(*make(kernels)), reference);
  }
}

TEST_P(OptimizerContract, GivesTheSameBitsHoweverTheRangeIsCut) {
  const Outcome whole = run(*make());
  expect_equal(run(*make(), {256, 512, 768}), whole);
  expect_equal(run(*make(), {1, 2, 17, 400, 401, 402, 450, 451, 999}), whole);
  expect_equal(run(*make(), {0, 0, 500, 500, kSize}), whole);  // empty shards
}

TEST_P(OptimizerContract, GivesTheSameBitsForAnyNumberOfThreads) {
  constexpr int64_t kLarge = 300'001;
  const auto optimizer = GetParam().make({{{0, kLarge}, true}}, best_kernels());
  std::vector<at::Tensor> results;
  const int before = at::get_num_threads();
  for (int num_threads : {1, 2, 3}) {
    at::set_num_threads(num_threads);
    State state = optimizer->make_state({0, kLarge});
    at::Tensor params = random(kLarge, 7);
    optimizer->update({.gradient = random(kLarge, 8),
                       .lr = 0.01,
                       .params_in = params,
                       .params_out = params,
                       .state_in = &state,
                       .state_out = &state});
    results.push_back(params);
  }
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(results[0], results[1]));
  EXPECT_TRUE(at::equal(results[0], results[2]));
}

TEST_P(OptimizerContract, LeavesPaddingAsItIs) {
  for (Kernels kernels : kernels_here()) {
    const Outcome outcome = run(*make(kernels));
    const at::Tensor before = random(kSize, 0);
    for (Range gap : {Range{401, 416}, Range{449, 464}, Range{987, kSize}}) {
      EXPECT_TRUE(at::equal(outcome.params.slice(0, gap.begin, gap.end),
                            before.slice(0, gap.begin, gap.end)));
      for (const at::Tensor& vector : outcome.state.vectors) {
        EXPECT_EQ(vector.slice(0, gap.begin, gap.end).abs().sum().item<float>(), 0);
      }
    }
  }
}

// ACCO's estimate: the same parameters as a committed step, and nothing else changes.
TEST_P(OptimizerContract, ATentativeStepLeavesNoTrace) {
  for (Kernels kernels : kernels_here()) {
    SCOPED_TRACE(to_string(kernels));
    const auto optimizer = make(kernels);
    Outcome start = run(*optimizer);
    const at::Tensor params_before = start.params.clone();
    std::vector<at::Tensor> vectors_before;
    for (const at::Tensor& vector : start.state.vectors) vectors_before.push_back(vector.clone());

    at::Tensor estimate = at::full({kSize}, -77.0f);  // padding must be written too
    Update update{.gradient = random(kSize, 9),
                  .gradient_scale = 0.5,
                  .lr = 0.1,
                  .params_in = start.params,
                  .params_out = estimate,
                  .state_in = &start.state};
    optimizer->update(update);
    EXPECT_TRUE(at::equal(start.params, params_before));
    EXPECT_EQ(start.state.step, 3);
    for (size_t i = 0; i < vectors_before.size(); ++i) {
      EXPECT_TRUE(at::equal(start.state.vectors[i], vectors_before[i]));
    }

    State next = optimizer->make_state({0, kSize});  // a committed step into other vectors
    at::Tensor committed = at::full({kSize}, -77.0f);
    update.params_out = committed;
    update.state_out = &next;
    optimizer->update(update);
    EXPECT_TRUE(at::equal(committed, estimate));
    EXPECT_EQ(next.step, 4);

    update.params_out = start.params;  // and in place
    update.state_out = &start.state;
    optimizer->update(update);
    expect_equal({start.params, start.state}, {committed, next});
  }
}

TEST_P(OptimizerContract, SaysHowMuchItRemembers) {
  const auto optimizer = make();
  const State state = optimizer->make_state({10, 110});
  EXPECT_EQ(state.range.begin, 10);
  EXPECT_EQ(state.range.end, 110);
  EXPECT_EQ(state.num_bytes(), 100 * optimizer->state_bytes_per_parameter());
  EXPECT_TRUE(optimizer->cuts_anywhere());
}

INSTANTIATE_TEST_SUITE_P(Optim, OptimizerContract, testing::ValuesIn(kCases),
                         [](const auto& tested) { return tested.param.name; });

TEST(Sgd, DecaysOnlyWhereTheSegmentSays) {
  const Sgd optimizer({.momentum = 0, .weight_decay = 0.5}, {{{0, 2}, true}, {{2, 4}, false}});
  State state = optimizer.make_state({0, 4});
  at::Tensor params = at::full({4}, 8.0f);
  optimizer.update({.gradient = at::zeros({4}),
                    .lr = 0.25,
                    .params_in = params,
                    .params_out = params,
                    .state_in = &state,
                    .state_out = &state});
  EXPECT_TRUE(at::equal(params, at::tensor({7.0f, 7.0f, 8.0f, 8.0f})));
}

TEST(Adamw, FirstUpdateMovesByTheLearningRateWhateverTheGradientsSize) {
  const Adamw optimizer({.weight_decay = 0}, {{{0, 2}, true}});
  State state = optimizer.make_state({0, 2});
  at::Tensor params = at::zeros({2});
  optimizer.update({.gradient = at::tensor({1e-3f, -1e3f}),
                    .lr = 0.125,
                    .params_in = params,
                    .params_out = params,
                    .state_in = &state,
                    .state_out = &state});
  EXPECT_NEAR(params[0].item<float>(), -0.125, 2e-6);
  EXPECT_NEAR(params[1].item<float>(), 0.125, 2e-6);
}

}  // namespace
}  // namespace outstep::optim
