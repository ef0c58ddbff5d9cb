#include <unistd.h>

#include <nlohmann/json.hpp>

#include "outstep/apps/commands.h"
#include "outstep/apps/evaluated_model.h"
#include "outstep/apps/places.h"
#include "outstep/apps/screen.h"
#include "outstep/apps/stored_model.h"
#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/io/files.h"
#include "outstep/io/safetensors.h"
#include "outstep/nn/hugging_face.h"
#include "outstep/train/member_soups.h"
#include "outstep/train/soup.h"

namespace outstep::apps {
namespace {

namespace fs = std::filesystem;

struct Flags {
  std::vector<std::string> models;
  std::string to;
  std::string batch_norm = "recompute";
  std::vector<std::string> overrides;
};

// The recipe that the first ingredient was trained with goes along, for its data.
void copy_recipe(const train::Ingredient& first, const fs::path& to) {
  if (const auto recipe = recipe_of(first.folder)) {
    io::write_text_atomically(to / "recipe.toml", io::read_text(*recipe));
  }
}

// At the soup's own weights; writes the folder's file once more.
void recompute(const fs::path& folder, const Flags& flags, nlohmann::ordered_json provenance) {
  EvaluatedModel evaluated(folder, flags.overrides);
  train::Assembly& assembly = evaluated.assembly();
  train::recompute_statistics(evaluated.recipe(), assembly);
  provenance["batch_norm"] = "recompute";
  io::write_safetensors(folder / "model.safetensors", assembly.params->named_tensors(),
                        {{"format", "pt"}, {"soup", provenance.dump()}});
}

// Beside the folder that is asked for, until all of it is there.
class Partial {
 public:
  explicit Partial(fs::path to)
      : to_(std::move(to)), folder_(fmt::format("{}.partial-{}", to_.string(), getpid())) {
    std::error_code error;
    if (to_.has_parent_path()) fs::create_directories(to_.parent_path(), error);
    // Made here and so removed here: somebody else's is left alone.
    if (!error && !fs::create_directory(folder_, error) && !error) {
      error = std::make_error_code(std::errc::file_exists);
    }
    if (error)
      throw DataError("{}: cannot make this folder: {}", folder_.string(), error.message());
  }
  ~Partial() {
    std::error_code error;
    fs::remove_all(folder_, error);
  }
  Partial(const Partial&) = delete;
  Partial& operator=(const Partial&) = delete;

  const fs::path& folder() const { return folder_; }
  // The model last: a folder with one is complete.
  void move_to_place() const {
    std::error_code error;
    fs::create_directories(to_, error);
    for (const char* file : {"recipe.toml", "config.json", "model.safetensors"}) {
      if (!error && fs::exists(folder_ / file)) fs::rename(folder_ / file, to_ / file, error);
    }
    if (error) throw DataError("cannot write to {}: {}", to_.string(), error.message());
  }

 private:
  const fs::path to_, folder_;
};

int run(const Flags& flags, const Invocation& invocation) {
  Screen screen({.json = invocation.wants_json()});
  fs::path to = flags.to;
  if (!to.has_filename()) to = to.parent_path();  // "folder/"
  for (const char* file : {"model.safetensors", "config.json"}) {
    if (fs::exists(to / file)) {
      throw DataError("{} holds a {} already; take another folder, or remove it first", to.string(),
                      file);
    }
  }
  const auto ingredients = train::find_ingredients({flags.models.begin(), flags.models.end()});
  const Partial partial(to);
  const auto provenance = train::write_soup(ingredients, partial.folder());
  copy_recipe(ingredients.front(), partial.folder());
  const bool recomputes =
      flags.batch_norm == "recompute" && train::has_buffers(*nn::read_model(partial.folder()));
  if (recomputes) {
    recompute(partial.folder(), flags, provenance);
  } else if (!flags.overrides.empty()) {
    throw ConfigError("{}: there are no running statistics to recompute, for which data are chosen",
                      flags.overrides.front());
  }
  partial.move_to_place();
  screen.line(fmt::format(
      "the mean of {} models{}\nwritten to {}: config.json, model.safetensors", ingredients.size(),
      recomputes ? ", batch norm's running statistics recomputed" : "", to.string()));
  screen.line(fmt::format("next   {} eval {}", program_as_typed(), flags.to));
  screen.result({{"folder", to.string()},
                 {"models", ingredients.size()},
                 {"recomputed_batch_norm", recomputes}});
  return 0;
}

}  // namespace

void add_soup(Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = invocation.add_command(
      {.name = "soup",
       .summary = "Average trained models of one shape into one",
       .examples = "outstep soup runs/wash_cifar10-20261125-101500 --to my-soup\n"
                   "outstep soup runs/a runs/b runs/c/checkpoints/step-00000400 --to my-soup"});
  command
      .add_option("models", flags->models,
                  "Runs (the newest checkpoint, all members), checkpoints, model folders")
      ->required();
  command.add_option("--to", flags->to, "The folder to write; made if it is not there")->required();
  command
      .add_option("--batch-norm", flags->batch_norm,
                  "Running statistics: \"recompute\" from training data, or \"average\"")
      ->check(CLI::IsMember({"recompute", "average"}));
  invocation.takes_json(command);
  invocation.takes_overrides(command, flags->overrides);
  invocation.on_run(command, [flags, &invocation] { return run(*flags, invocation); });
}

}  // namespace outstep::apps
