#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "outstep/apps/commands.h"
#include "outstep/apps/evaluated_model.h"
#include "outstep/apps/failure.h"
#include "outstep/apps/model_place.h"
#include "outstep/apps/places.h"
#include "outstep/apps/screen.h"
#include "outstep/apps/stop_signals.h"
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

// What ends a soup early: nothing of it is left then.
void go_on(const StopSignals& signals) {
  if (signals.signal() == 0) return;
  throw FailureError(
      {.kind = "stopped",
       .exit_code = 128 + signals.signal(),
       .message = fmt::format("by {}; nothing was written", signal_name(signals.signal()))});
}

bool says_data(const std::vector<std::string>& overrides) {
  return std::ranges::any_of(overrides, [](const auto& o) { return o.starts_with("data.name="); });
}

// In the place of the first ingredient: the data to recompute running statistics from, which are
// looked for before anything is written. Nothing where there are none to recompute.
std::unique_ptr<EvaluatedModel> open_data(const fs::path& first, const Flags& flags) {
  require_relevant(flags.overrides, Use::soup);
  if (flags.batch_norm != "recompute" || !train::has_buffers(*nn::read_model(first))) {
    if (flags.overrides.empty()) return nullptr;
    throw ConfigError("--{}: only for running statistics that are recomputed, and here {}",
                      flags.overrides.front(),
                      flags.batch_norm == "recompute" ? "are none" : "they are averaged");
  }
  if (!recipe_of(first) && !says_data(flags.overrides)) {
    throw ConfigError(
        "{} has no recipe that says what data to recompute running statistics from; name them, as "
        "--data.name=cifar10, or use --batch-norm=average",
        first.string());
  }
  return std::make_unique<EvaluatedModel>(first, flags.overrides, Use::soup);
}

// At the soup's own weights; writes the folder's file once more.
void recompute(const fs::path& folder, EvaluatedModel& evaluated, const StopSignals& signals,
               nlohmann::ordered_json provenance) {
  train::Assembly& assembly = evaluated.assembly();
  nn::load_folder(folder, *assembly.model, *assembly.params);
  train::recompute_statistics(evaluated.recipe(), assembly, [&] { go_on(signals); });
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
    for (fs::path parent = to_.parent_path(); !parent.empty() && !fs::exists(parent);
         parent = parent.parent_path()) {
      made_.push_back(parent);
    }
    if (to_.has_parent_path()) fs::create_directories(to_.parent_path(), error);
    // Made here and so removed here: somebody else's is left alone.
    if (!error && !fs::create_directory(folder_, error) && !error) {
      error = std::make_error_code(std::errc::file_exists);
    }
    if (!error) return;
    remove_parents();
    throw DataError("{}: cannot make this folder: {}", folder_.string(), error.message());
  }
  ~Partial() {
    std::error_code error;
    fs::remove_all(folder_, error);
    remove_parents();
  }
  Partial(const Partial&) = delete;
  Partial& operator=(const Partial&) = delete;

  const fs::path& folder() const { return folder_; }
  // The model last: a folder with one is complete. Returns the names of what was written.
  std::vector<std::string> move_to_place() const {
    require_place_for_model(to_);  // still
    std::vector<std::string> written;
    std::error_code error;
    fs::create_directories(to_, error);
    for (const char* file : {"recipe.toml", "config.json", "model.safetensors"}) {
      if (error || !fs::exists(folder_ / file)) continue;
      fs::rename(folder_ / file, to_ / file, error);
      if (!error) written.emplace_back(file);
    }
    if (!error) return written;
    std::error_code ignored;
    for (const std::string& file : written) fs::remove(to_ / file, ignored);
    fs::remove(to_, ignored);
    throw DataError("cannot write to {}: {}", to_.string(), error.message());
  }

 private:
  // Those that were made for the soup, unless they hold it.
  void remove_parents() const {
    std::error_code error;
    for (const fs::path& folder : made_) fs::remove(folder, error);
  }

  const fs::path to_, folder_;
  std::vector<fs::path> made_;  // innermost first
};

// What eval needs to be told of the data, beside what the soup's recipe says.
std::string data_flags(const Flags& flags, bool has_recipe) {
  std::string said;
  for (const std::string& override : flags.overrides) {
    if (override.starts_with("data.")) said += " --" + override;
  }
  return said.empty() && !has_recipe ? " --data.name=NAME --data.path=PATH" : said;
}

int run(const Flags& flags, const Invocation& invocation) {
  Screen screen({.json = invocation.wants_json()});
  fs::path to = flags.to;
  if (!to.has_filename()) to = to.parent_path();  // "folder/"
  require_place_for_model(to);
  const auto ingredients = train::find_ingredients({flags.models.begin(), flags.models.end()});
  const fs::path first = ingredients.front().folder;
  const auto evaluated = open_data(first, flags);
  const StopSignals signals;
  const Partial partial(to);
  const auto provenance = train::write_soup(ingredients, partial.folder(), [&] { go_on(signals); });
  // The recipe that the first ingredient was trained with goes along, for its data.
  const auto recipe = recipe_of(first);
  if (recipe) {
    io::write_text_atomically(partial.folder() / "recipe.toml", io::read_text(*recipe));
  }
  if (evaluated) recompute(partial.folder(), *evaluated, signals, provenance);
  go_on(signals);
  const auto written = partial.move_to_place();
  const bool recomputes = evaluated != nullptr;
  screen.line(fmt::format("the mean of {} models{}\nwritten to {}: {}", ingredients.size(),
                          recomputes ? ", batch norm's running statistics recomputed" : "",
                          to.string(), join(written, ", ")));
  screen.line(fmt::format("next   {} eval {}{}", program_as_typed(), flags.to,
                          data_flags(flags, recipe.has_value())));
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
