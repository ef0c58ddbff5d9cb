#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "outstep/io/safetensors.h"
#include "outstep/train/checkpoint.h"
#include "outstep/train/test_world.h"

namespace outstep::train {

using Overrides = std::vector<std::string>;

// Runs of small populations in a folder of their own, and what their checkpoints hold.
class PopulationTest : public ::testing::Test {
 protected:
  PopulationTest() {
    at::set_num_threads(1);
    testing::write_text_data(folder_.path() / "words.txt");
    testing::write_image_data(folder_.path() / "images");
  }
  std::string images() const { return testing::image_recipe(folder_.path() / "images"); }
  std::string text() const { return testing::text_recipe(folder_.path() / "words.txt"); }
  static Overrides with(Overrides overrides, const Overrides& more) {
    overrides.insert(overrides.end(), more.begin(), more.end());
    return overrides;
  }
  Summary train(const std::string& toml, const Overrides& overrides, const std::string& name,
                bool resume = false) const {
    return testing::train_well(
        {.toml = toml, .overrides = overrides, .folder = folder_.path() / name, .resume = resume});
  }
  // A member's model in the newest checkpoint.
  std::string member_bytes(const std::string& name, int num_members, int member) const {
    const std::filesystem::path newest = list_checkpoints(folder_.path() / name).back().folder;
    return testing::file_bytes(member_folder(newest, num_members, member) / "model.safetensors");
  }
  at::Tensor weight(const std::string& name, int num_members, int member,
                    const std::string& tensor) const {
    const std::filesystem::path newest = list_checkpoints(folder_.path() / name).back().folder;
    return io::Safetensors(member_folder(newest, num_members, member) / "model.safetensors")
        .tensor(tensor)
        .clone();
  }
  void drop_checkpoints_after(const std::string& name, int64_t step) const {
    for (const auto& info : list_checkpoints(folder_.path() / name)) {
      if (info.step > step) std::filesystem::remove_all(info.folder);
    }
  }
  // A run that goes on from the middle is the run that never stopped, for all members.
  void expect_resumes(const std::string& toml, const Overrides& overrides, const std::string& name,
                      int num_members) const {
    const Overrides saving = with(overrides, {"checkpoint.every=3", "checkpoint.keep=9"});
    const Summary first = train(toml, saving, name);
    EXPECT_TRUE(first.finished) << name;
    std::vector<std::string> models;
    for (int m = 0; m < num_members; ++m) models.push_back(member_bytes(name, num_members, m));
    EXPECT_NE(models[0], models[1]) << name;
    const auto average = folder_.path() / name / "average" / "model.safetensors";
    const std::string average_bytes = testing::file_bytes(average);
    drop_checkpoints_after(name, 3);
    const Summary again = train(toml, saving, name, true);
    for (int m = 0; m < num_members; ++m) {
      EXPECT_EQ(member_bytes(name, num_members, m), models[static_cast<size_t>(m)])
          << name << ", member " << m;
    }
    EXPECT_EQ(testing::file_bytes(average), average_bytes) << name;
    EXPECT_EQ(again.validation_loss, first.validation_loss) << name;
  }

  testing::TemporaryFolder folder_;
};

}  // namespace outstep::train
