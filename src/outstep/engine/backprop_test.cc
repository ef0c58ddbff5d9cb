#include "outstep/engine/backprop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "outstep/engine/autocast.h"
#include "outstep/engine/testing.h"
#include "outstep/method/testing.h"
#include "outstep/nn/gpt2.h"
#include "outstep/nn/mlp.h"
#include "outstep/nn/resnet.h"

namespace outstep::engine {
namespace {

using method::testing::MemoryCheckpoint;
using testing::Examples;
using ::testing::HasSubstr;
using testing::kNumClasses;

std::unique_ptr<nn::Model> mlp() {
  return std::make_unique<nn::Mlp>(
      nn::MlpOptions{.input_shape = {1, 4, 4}, .hidden_sizes = {8}, .num_classes = kNumClasses});
}
// Large enough for the fused kernels: heads of 16 channels.
std::unique_ptr<nn::Model> gpt2() {
  return std::make_unique<nn::Gpt2>(nn::Gpt2Options{.vocab_size = kNumClasses,
                                                    .n_positions = 8,
                                                    .n_embd = 32,
                                                    .n_layer = 2,
                                                    .n_head = 2,
                                                    .tie_word_embeddings = true});
}
std::unique_ptr<nn::Model> resnet() {
  return std::make_unique<nn::ResNet>(nn::ResNetOptions{
      .depth = 18, .stem = "cifar", .width = 4, .num_classes = kNumClasses, .image_size = 8});
}

// An engine and all that it borrows.
struct Bench {
  explicit Bench(std::unique_ptr<nn::Model> made, BackpropOptions options = {})
      : model(std::move(made)),
        params(*model, 1),
        stream(std::make_shared<Examples>(*model), {.micro_batch = 4, .prefetch = 0}),
        engine(std::make_unique<BackpropEngine>(*model, params, stream, options)) {
    at::set_num_threads(1);
  }
  at::Tensor gradient() const { return params.gradients().clone(); }

  std::unique_ptr<nn::Model> model;
  nn::FlatParams params;
  data::Stream stream;
  std::unique_ptr<BackpropEngine> engine;
};

data::Batch first_batch(const Bench& bench) {
  data::Stream stream(std::make_shared<Examples>(*bench.model), bench.stream.options());
  return stream.next();
}

class BackpropIn : public ::testing::TestWithParam<Precision> {};
INSTANTIATE_TEST_SUITE_P(Precisions, BackpropIn,
                         ::testing::Values(Precision::fp32, Precision::bf16),
                         [](const auto& tested) {
                           return tested.param == Precision::fp32 ? "fp32" : "bf16";
                         });

TEST_P(BackpropIn, AddsAutogradsGradientIntoTheFlatVector) {
  for (auto make : {mlp, gpt2, resnet}) {
    Bench bench(make(), {.precision = GetParam(), .channels_last = false});
    const data::Batch batch = first_batch(bench);
    nn::ForwardContext context{.training = true, .seed = 1};
    at::Tensor loss;
    {
      const Autocast autocast(GetParam() == Precision::bf16, at::kCPU);
      loss = bench.model->loss(bench.model->forward(batch.inputs, context), batch.targets).loss;
    }
    std::vector<at::Tensor> leaves;
    for (nn::Parameter* parameter : bench.params.parameters()) leaves.push_back(parameter->tensor);
    const auto expected = torch::autograd::grad({loss}, leaves);

    const method::Contribution contribution = bench.engine->accumulate();
    EXPECT_EQ(contribution.loss_sum, loss.item<double>());
    for (size_t i = 0; i < leaves.size(); ++i) {
      const auto& entry = bench.params.entries()[i];
      const at::Tensor found =
          bench.params.gradients().narrow(0, entry.offset, entry.numel).view(leaves[i].sizes());
      EXPECT_TRUE(at::equal(found, expected[i])) << entry.name;
    }
  }
}

TEST(Backprop, SumsMicroBatches) {
  Bench two(mlp()), one(mlp());
  two.engine->accumulate();
  const at::Tensor first = two.gradient();
  two.engine->accumulate();
  one.stream.seek(1);
  one.engine->accumulate();
  EXPECT_TRUE(at::allclose(two.gradient(), first + one.gradient(), 1e-6, 1e-8));
}

TEST(Backprop, ReportsWhatItAdded) {
  Bench bench(gpt2());
  const method::Contribution contribution = bench.engine->accumulate();
  EXPECT_EQ(contribution.micro_batches, 1);
  EXPECT_EQ(contribution.samples, 4);
  EXPECT_EQ(contribution.units, 32);
  EXPECT_EQ(contribution.num_losses, 1);
  EXPECT_NEAR(contribution.loss_sum, std::log(5.0), 0.2);
  EXPECT_EQ(contribution.staleness_sum, 0);
  EXPECT_EQ(contribution.staleness_max, 0);
}

TEST(Backprop, PassesOnALossThatIsNotFinite) {
  Bench bench(mlp());
  const at::NoGradGuard no_grad;
  bench.params.values().fill_(std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(std::isnan(bench.engine->accumulate().loss_sum));
}

// Every element is announced once, when it is final, the end of the model first.
TEST(Backprop, AnnouncesRangesAsTheyBecomeFinal) {
  for (auto make : {mlp, gpt2, resnet}) {
    Bench bench(make());
    at::Tensor seen = at::zeros({bench.params.size()});
    at::Tensor when_announced = at::zeros({bench.params.size()});
    std::vector<int64_t> begins;
    bench.engine->on_range_ready([&](int64_t begin, int64_t end) {
      seen.narrow(0, begin, end - begin).add_(1);
      when_announced.narrow(0, begin, end - begin)
          .copy_(bench.params.gradients().narrow(0, begin, end - begin));
      begins.push_back(begin);
    });
    bench.engine->accumulate();
    EXPECT_TRUE(at::equal(seen, at::ones_like(seen)));
    EXPECT_TRUE(at::equal(when_announced, bench.gradient()));
    EXPECT_GT(begins.front(), bench.params.size() / 2);
    EXPECT_LT(begins.back(), bench.params.size() / 2);
    bench.engine->accumulate();  // and again
    EXPECT_TRUE(at::equal(seen, at::full_like(seen, 2)));
    bench.engine->on_range_ready(nullptr);
    bench.engine->accumulate();
    EXPECT_TRUE(at::equal(seen, at::full_like(seen, 2)));
  }
}

// Parameters are rubbish until the forward pass says that it is about to read them.
TEST(Backprop, AsksForParametersBeforeItReadsThem) {
  for (auto make : {mlp, gpt2, resnet}) {
    Bench usual(make());
    const double loss = usual.engine->accumulate().loss_sum;
    Bench bench(make());
    const at::NoGradGuard no_grad;
    const at::Tensor values = bench.params.values();
    const at::Tensor truth = values.clone();
    values.fill_(std::numeric_limits<float>::quiet_NaN());
    int64_t highest = 0;
    bool is_first = true;
    bench.engine->on_range_needed([&](int64_t begin, int64_t end) {
      if (std::exchange(is_first, false)) {
        EXPECT_EQ(begin, 0);
      }
      highest = std::max(highest, end);
      values.narrow(0, begin, end - begin).copy_(truth.narrow(0, begin, end - begin));
    });
    EXPECT_EQ(bench.engine->accumulate().loss_sum, loss);
    EXPECT_TRUE(at::equal(bench.gradient(), usual.gradient()));
    bench.engine->on_range_needed(nullptr);
    highest = 0;
    bench.engine->accumulate();
    EXPECT_EQ(highest, 0);
  }
}

TEST(Backprop, TakesItsHooksAway) {
  Bench bench(mlp());
  const at::Tensor& parameter = bench.params.parameters()[0]->tensor;
  bench.engine->on_range_ready([](int64_t, int64_t) {});
  EXPECT_NE(torch::autograd::impl::post_acc_grad_hooks(parameter), nullptr);
  bench.engine.reset();
  EXPECT_EQ(torch::autograd::impl::post_acc_grad_hooks(parameter), nullptr);
}

TEST(Backprop, ThrowsWhatTheCallbackThrows) {
  Bench bench(mlp());
  int num_calls = 0;
  bench.engine->on_range_ready([&](int64_t, int64_t) {
    if (++num_calls == 2) throw CommError("the link broke");
  });
  EXPECT_THROW(bench.engine->accumulate(), CommError);
  EXPECT_EQ(num_calls, 2);
  bench.engine->on_range_ready(nullptr);
  EXPECT_EQ(bench.engine->accumulate().micro_batches, 1);  // no harm done
}

// A block whose parameter the loss does not depend on.
class Unused : public nn::PlainBlock {
 public:
  Unused() : PlainBlock("unused") { add_parameter("unused.weight", {3}, nn::init::ones()); }
  at::Tensor transform(const at::Tensor& input, nn::ForwardContext&) override { return input; }
};

TEST(Backprop, AnnouncesParametersThatTheLossDoesNotReach) {
  auto model = mlp();
  model->blocks.push_back(std::make_unique<Unused>());
  Bench bench(std::move(model));
  int64_t num_announced = 0;
  bench.engine->on_range_ready([&](int64_t begin, int64_t end) { num_announced += end - begin; });
  bench.engine->accumulate();
  EXPECT_EQ(num_announced, bench.params.size());
}

TEST(Backprop, Bf16ComputesNearFloat32AndLeavesAutocastAsItWas) {
  for (auto make : {mlp, gpt2, resnet}) {
    Bench exact(make()), rounded(make(), {.precision = Precision::bf16});
    const double loss = exact.engine->accumulate().loss_sum;
    EXPECT_NEAR(rounded.engine->accumulate().loss_sum, loss, 0.05);
    EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
    const at::Tensor a = exact.gradient(), b = rounded.gradient();
    EXPECT_FALSE(at::equal(a, b));
    const double cosine = (a.dot(b) / (a.norm() * b.norm())).item<double>();
    EXPECT_GT(cosine, 0.9);  // batch norm over four tiny images amplifies rounding
  }
}

TEST(Backprop, ChannelsLastChangesNothingButTheLayout) {
  Bench first(resnet(), {.channels_last = false}), last(resnet(), {.channels_last = true});
  const double loss = first.engine->accumulate().loss_sum;
  EXPECT_NEAR(last.engine->accumulate().loss_sum, loss, 1e-5);
  const at::Tensor a = first.gradient(), b = last.gradient();
  EXPECT_LT(((a - b).norm() / a.norm()).item<double>(), 1e-4);
}

TEST(Backprop, EvaluatesWithoutTouchingAnything) {
  for (auto make : {mlp, gpt2, resnet}) {
    Bench bench(make());
    bench.engine->accumulate();
    const at::Tensor gradient = bench.gradient(), buffers = bench.params.buffers().clone();
    const data::Batch batch = first_batch(bench);
    const method::Evaluation found = bench.engine->evaluate(batch);
    nn::ForwardContext context;
    const at::NoGradGuard no_grad;
    const at::Tensor logits = bench.model->forward(batch.inputs, context);
    EXPECT_EQ(found.units, batch.num_units);
    EXPECT_NEAR(found.loss(), bench.model->plain_loss(logits, batch.targets).loss.item<double>(),
                1e-5);
    EXPECT_EQ(found.correct, nn::count_correct(logits, batch.targets));
    EXPECT_TRUE(at::equal(bench.gradient(), gradient));
    EXPECT_TRUE(at::equal(bench.params.buffers(), buffers));
    EXPECT_EQ(bench.stream.num_drawn(), 1);
  }
}

TEST_P(BackpropIn, GoesOnFromACheckpointBitForBit) {
  for (auto make : {mlp, gpt2, resnet}) {
    const BackpropOptions options{.precision = GetParam()};
    Bench whole(make(), options), stopped(make(), options);
    MemoryCheckpoint checkpoint;
    for (Bench* bench : {&whole, &stopped}) {
      bench->engine->accumulate();
      bench->engine->accumulate();
    }
    checkpoint.save(0, *stopped.engine);
    whole.params.zero_gradients();
    whole.engine->accumulate();

    Bench resumed(make(), options);
    checkpoint.load(0, *resumed.engine);
    resumed.engine->accumulate();
    EXPECT_TRUE(at::equal(resumed.gradient(), whole.gradient()));
    EXPECT_TRUE(at::equal(resumed.params.buffers(), whole.params.buffers()));
  }
}

TEST(Backprop, TakesNoBuffersFromAWorldOfAnotherShape) {
  Bench saved(resnet()), resumed(resnet());
  saved.engine->accumulate();
  MemoryCheckpoint checkpoint;
  checkpoint.save(0, *saved.engine);
  const at::Tensor before = resumed.params.buffers().clone();
  checkpoint.load(0, *resumed.engine, /*has_local=*/false);
  EXPECT_TRUE(at::equal(resumed.params.buffers(), before));
  EXPECT_EQ(resumed.stream.next().index, 1);
}

TEST(Backprop, TracesForwardAndBackward) {
  trace::Tracer tracer;
  Bench bench(mlp(), {.tracer = &tracer});
  bench.engine->accumulate();
  std::vector<std::string> names;
  for (const trace::Event& event : tracer.events()) names.push_back(event.name);
  EXPECT_EQ(names, (std::vector<std::string>{"forward", "backward"}));
}

TEST(BackpropOptions, AreRead) {
  auto settings = io::Settings::from_text(
      "[a]\nprecision = 'bf16'\nchannels_last = 'no'\n[b]\n[c]\nprecision = 'fp16'\n", "my.toml");
  const auto read = [&](const char* name) {
    io::Section section = settings.section(name);
    return BackpropOptions::read(section);
  };
  EXPECT_EQ(read("a").precision, Precision::bf16);
  EXPECT_EQ(read("a").channels_last, std::optional(false));
  EXPECT_EQ(read("b").precision, Precision::fp32);
  EXPECT_EQ(read("b").channels_last, std::nullopt);
  try {
    read("c");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("my.toml:6:1"));
    EXPECT_THAT(error.what(), HasSubstr("bf16"));
  }
}

}  // namespace
}  // namespace outstep::engine
