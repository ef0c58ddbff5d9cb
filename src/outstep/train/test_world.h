#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "outstep/train/trainer.h"

// For tests of this room: worlds of ranks that are threads of the test, training tiny models on
// generated data in a temporary folder.

namespace outstep::train::testing {

class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A text of words in random order, and CIFAR-10 files of random pixels.
void write_text_data(const std::filesystem::path& file);
void write_image_data(const std::filesystem::path& folder);

// Recipes of about a thousand parameters that take a millisecond a step: a GPT with dropout, and a
// ResNet with batch norm, crop and flip. Both with clipping, a schedule, and a place for data.path.
std::string text_recipe(const std::filesystem::path& text_file);
std::string image_recipe(const std::filesystem::path& image_folder);

struct WorldRun {
  std::string toml;
  std::vector<std::string> overrides;
  std::filesystem::path folder;  // the run's
  bool resume = false;
  const std::atomic<bool>* stop = nullptr;
  std::function<void(int rank, const Progress&)> on_progress = nullptr;
};

// What each rank came to: a summary, or the error it threw.
struct Outcome {
  Summary summary;
  std::string error;  // its kind and text; empty: none
};
// Trains on as many ranks as mesh.replicas says.
std::vector<Outcome> train(const WorldRun& run);
// The same, all ranks without error: rank 0's summary. Else throws the first error's text.
Summary train_well(const WorldRun& run);

// Assembles the recipe's world and does the work on each rank.
std::vector<Outcome> on_world(const WorldRun& run,
                              const std::function<Summary(Recipe&, Assembly&)>& work);

std::string file_bytes(const std::filesystem::path& path);
// Of a run's newest checkpoint.
std::string model_bytes(const std::filesystem::path& run_folder);

}  // namespace outstep::train::testing
