#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "outstep/data/images.h"
#include "outstep/train/checkpoint.h"
#include "outstep/train/test_world.h"

// Mixed and erased images in whole runs: the same bits however a run is cut up and wherever it
// stopped, a loss over both classes, and an evaluation that knows nothing of it.

namespace outstep::train {
namespace {

using testing::model_bytes;
using Overrides = std::vector<std::string>;

class AugmentedTest : public ::testing::Test {
 protected:
  AugmentedTest() { testing::write_image_data(folder_.path() / "images"); }

  std::filesystem::path run(const std::string& name) const { return folder_.path() / name; }
  Summary train(const std::string& name, Overrides more, bool resume = false) const {
    Overrides overrides = {"data.mixup=0.5", "data.cutmix=1.0", "data.random_erasing=0.35",
                           "model.label_smoothing=0.1"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    return testing::train_well({.toml = testing::image_recipe(folder_.path() / "images"),
                                .overrides = overrides,
                                .folder = run(name),
                                .resume = resume});
  }

  testing::TemporaryFolder folder_;
};

TEST_F(AugmentedTest, ReplicasAndStagesSeeWhatOneProcessSees) {
  const Summary alone = train("alone", {"model.name=revnet18", "train.accumulation=2"});
  const Summary stages =
      train("stages", {"model.name=revnet18", "train.accumulation=2", "mesh.stages=3",
                       "engine.stages=[3, 4, 3]", "engine.name=1f1b"});
  EXPECT_EQ(model_bytes(run("stages")), model_bytes(run("alone")));
  EXPECT_EQ(stages.train_loss, alone.train_loss);
  EXPECT_EQ(stages.validation_loss, alone.validation_loss);
  // A ViT: batch norm's running statistics of replicas are their own.
  const Overrides vit = {"model.name=revvit", "model.n_embd=16", "model.n_layer=1",
                         "model.n_head=1", "model.patch_size=8"};
  Overrides one = vit, two = vit;
  one.push_back("train.accumulation=2");
  two.insert(two.end(), {"mesh.replicas=2", "sync.name=ddp"});
  train("one", one);
  train("two", two);
  EXPECT_EQ(model_bytes(run("two")), model_bytes(run("one")));
}

TEST_F(AugmentedTest, RunsGoOnWhereTheyStoppedBitForBit) {
  const std::pair<std::string, Overrides> engines[] = {
      {"backprop", {}},
      {"petra",
       {"model.name=revnet18", "mesh.stages=3", "engine.stages=[3, 4, 3]", "engine.name=petra"}}};
  for (auto [name, overrides] : engines) {
    overrides.insert(overrides.end(), {"checkpoint.every=3", "checkpoint.keep=9"});
    train(name, overrides);
    const std::string straight = model_bytes(run(name));
    for (const auto& info : list_checkpoints(run(name))) {
      if (info.step > 3) std::filesystem::remove_all(info.folder);
    }
    train(name, overrides, /*resume=*/true);
    EXPECT_EQ(model_bytes(run(name)), straight) << name;
  }
}

// With a learning rate of 0 the loss of each step can be computed beside the run.
TEST_F(AugmentedTest, TheLossIsThatOfBothClassesByTheirShares) {
  double reported = 0, expected = 0;
  testing::on_world(
      {.toml = testing::image_recipe(folder_.path() / "images"),
       .overrides = {"data.mixup=1.0", "model.label_smoothing=0.1", "model.name=revvit",
                     "model.n_embd=16", "model.n_layer=1", "model.n_head=1", "data.prefetch=0"},
       .folder = run("loss")},
      [&](Recipe&, Assembly& assembly) {
        reported = assembly.engine->accumulate().loss_sum;
        assembly.stream->seek(0);
        const data::Batch batch = assembly.stream->next();
        const at::NoGradGuard no_grad;
        nn::ForwardContext context{.training = true, .seed = 1};
        const at::Tensor log_p =
            assembly.model->forward(batch.inputs, context).to(at::kDouble).log_softmax(1);
        const auto [shares, classes] = batch.targets.topk(2, 1);
        for (int64_t i = 0; i < batch.num_samples; ++i) {
          for (int64_t k = 0; k < 2; ++k) {
            const at::Tensor of_class = log_p[i][classes[i][k].item<int64_t>()];
            expected -= shares[i][k].item<double>() *
                        (0.9 * of_class.item<double>() + 0.1 * log_p[i].mean().item<double>()) /
                        static_cast<double>(batch.num_samples);
          }
        }
        return Summary{};
      });
  EXPECT_GT(expected, 0);
  EXPECT_NEAR(reported, expected, 1e-5);
}

}  // namespace
}  // namespace outstep::train
