#include "outstep/optim/optimizers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "outstep/base/errors.h"

namespace outstep::optim {
namespace {

using testing::HasSubstr;

std::unique_ptr<Optimizer> make(const std::string& keys) {
  auto settings = io::Settings::from_text("[optimizer]\n" + keys, "my.toml");
  io::Section section = settings.section("optimizer");
  read_lr(section);
  auto optimizer = make_optimizer(section, {});
  settings.require_all_used();
  return optimizer;
}

std::string complaint(const std::string& keys) {
  try {
    make(keys);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Optimizers, AreMadeByName) {
  EXPECT_EQ(make("")->name(), "adamw");
  EXPECT_EQ(make("name = 'sgd'")->state_bytes_per_parameter(), 4);
  EXPECT_EQ(make("name = 'sgd'\nmomentum = 0")->state_bytes_per_parameter(), 0);
  EXPECT_EQ(make("name = 'adamw'\nbetas = [0.9, 0.95]\nlr = 1e-3")->state_bytes_per_parameter(), 8);
}

TEST(Optimizers, HaveTheirOwnUsualLearningRate) {
  auto settings = io::Settings::from_text("[a]\nname = 'sgd'\n[b]\nname = 'adamw'\n[c]\nlr = 3");
  const auto lr_of = [&](const char* name) {
    io::Section section = settings.section(name);
    return read_lr(section);
  };
  EXPECT_EQ(lr_of("a"), 0.1);
  EXPECT_EQ(lr_of("b"), 1e-3);
  EXPECT_EQ(lr_of("c"), 3);
}

TEST(Optimizers, RefuseWhatMakesNoSense) {
  EXPECT_THAT(complaint("name = 'adam'"), HasSubstr("adamw"));
  EXPECT_THAT(complaint("betas = [0.9]"),
              HasSubstr("my.toml:2:1: betas has 1 numbers, must have 2"));
  EXPECT_THAT(complaint("betas = [0.9, 1.0]"), HasSubstr("must be below 1"));
  EXPECT_THAT(complaint("name = 'sgd'\nmomentum = 1.0"), HasSubstr("must be below 1"));
  EXPECT_THAT(complaint("name = 'sgd'\nmomentum = 0\nnesterov = true"),
              HasSubstr("nesterov = true needs momentum above 0"));
  EXPECT_THAT(complaint("lr = 0"), HasSubstr("lr"));
  EXPECT_THAT(complaint("momentum = 0.9"),
              HasSubstr("unknown key \"momentum\""));  // adamw has none
}

}  // namespace
}  // namespace outstep::optim
