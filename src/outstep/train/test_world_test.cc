#include "outstep/train/test_world.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>
#include <thread>

#include "outstep/base/errors.h"
#include "outstep/base/rng.h"
#include "outstep/io/files.h"
#include "outstep/train/checkpoint.h"

namespace outstep::train::testing {

namespace fs = std::filesystem;

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "outstep-train-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void write_text_data(const fs::path& file) {
  const std::vector<std::string> words = {"the ", "cat ", "sat ", "on ", "a ", "mat.\n", "so "};
  CounterRng rng({.seed = 7, .purpose = purpose("test.text")});
  std::ofstream out(file);
  for (int i = 0; i < 2000; ++i) out << words[rng.below(words.size())];
}

void write_image_data(const fs::path& folder) {
  fs::create_directories(folder);
  CounterRng rng({.seed = 8, .purpose = purpose("test.images")});
  for (const char* name : {"data_batch_1.bin", "data_batch_2.bin"}) {
    std::ofstream out(folder / name, std::ios::binary);
    for (int record = 0; record < 24; ++record) {
      out.put(static_cast<char>(record % 10));
      for (int i = 0; i < 3072; ++i) out.put(static_cast<char>(rng.next_u32()));
    }
  }
}

std::string text_recipe(const fs::path& text_file) {
  return fmt::format(R"([model]
name = "gpt2"
n_layer = 2
n_head = 2
n_embd = 16
n_positions = 8
embd_pdrop = 0.1
resid_pdrop = 0.1
attn_pdrop = 0.1
[data]
name = "text"
path = "{}"
[engine]
micro_batch = 2
[optimizer]
name = "adamw"
lr = 0.01
[schedule]
name = "cosine"
warmup_steps = 2
[train]
steps = 8
clip_norm = 1.0
threads = 1
[evaluation]
max_batches = 5
[log]
every = 1
tensorboard = false
)",
                     text_file.string());
}

std::string image_recipe(const fs::path& image_folder) {
  return fmt::format(R"([model]
name = "resnet18"
width = 2
[data]
name = "cifar10"
path = "{}"
train_files = ["data_batch_1.bin"]
valid_files = ["data_batch_2.bin"]
[engine]
micro_batch = 4
[optimizer]
name = "sgd"
lr = 0.05
momentum = 0.9
nesterov = true
[schedule]
name = "constant"
[train]
steps = 6
threads = 1
[log]
every = 1
tensorboard = false
)",
                     image_folder.string());
}

namespace {

Outcome run_rank(const WorldRun& run, comm::Fabric& fabric,
                 const std::function<Summary(Recipe&, Assembly&)>& work) {
  try {
    Recipe recipe = read_recipe_text(run.toml, "test.toml", run.overrides);
    const auto assembly = assemble(recipe, {}, fabric, nullptr);
    return {.summary = work(recipe, *assembly), .error = ""};
  } catch (const Error& error) {
    return {.summary = {}, .error = fmt::format("{}: {}", error.kind(), error.what())};
  } catch (const std::exception& error) {
    return {.summary = {}, .error = fmt::format("unexpected: {}", error.what())};
  }
}

}  // namespace

std::vector<Outcome> on_world(const WorldRun& run,
                              const std::function<Summary(Recipe&, Assembly&)>& work) {
  const int size = read_recipe_text(run.toml, "test.toml", run.overrides).mesh.size();
  const auto fabrics = comm::local_fabrics(size);
  std::vector<Outcome> outcomes(static_cast<size_t>(size));
  std::vector<std::jthread> ranks;
  for (size_t r = 0; r < outcomes.size(); ++r) {
    ranks.emplace_back([&, r] { outcomes[r] = run_rank(run, *fabrics[r], work); });
  }
  ranks.clear();  // joins
  return outcomes;
}

std::vector<Outcome> train(const WorldRun& run) {
  return on_world(run, [&](Recipe& recipe, Assembly& assembly) {
    const int rank = assembly.world_group->rank();
    TrainerOptions options{.run_folder = run.folder, .resume = run.resume, .stop = run.stop};
    if (run.on_progress) {
      options.on_progress = [&, rank](const Progress& p) { run.on_progress(rank, p); };
    }
    return run_training(recipe, assembly, options);
  });
}

Summary train_well(const WorldRun& run) {
  const auto outcomes = train(run);
  for (const Outcome& outcome : outcomes) {
    if (!outcome.error.empty()) throw std::runtime_error(outcome.error);
  }
  return outcomes.front().summary;
}

std::string file_bytes(const fs::path& path) { return io::read_text(path); }

std::string model_bytes(const fs::path& run_folder) {
  return file_bytes(list_checkpoints(run_folder).back().folder / "model.safetensors");
}

}  // namespace outstep::train::testing
