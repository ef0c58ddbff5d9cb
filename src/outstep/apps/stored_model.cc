#include "outstep/apps/stored_model.h"

#include <nlohmann/json.hpp>

#include "outstep/apps/places.h"
#include "outstep/base/errors.h"
#include "outstep/data/datasets.h"
#include "outstep/io/settings.h"
#include "outstep/nn/hugging_face.h"
#include "outstep/train/checkpoint.h"
#include "outstep/train/manifest.h"
#include "outstep/train/population.h"
#include "outstep/train/run_folder.h"

namespace outstep::apps {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kByteTokens = 256;
constexpr int64_t kGpt2Tokens = 50257;

bool has_vocabulary(const fs::path& folder) {
  return fs::exists(folder / "tokenizer.json") || fs::exists(folder / "vocab.json") ||
         fs::exists(folder / "encoder.json");
}

// As the model was trained with; nothing for tokens that came from a file.
std::optional<std::string> tokenizer_of_recipe(const fs::path& recipe) {
  auto settings = io::Settings::from_file(recipe);
  io::Section data = settings.section("data");
  if (data.text("name", "text") != "text") return std::nullopt;
  return data.text("tokenizer", "bytes");
}

std::string tokenizer_name(const StoredModel& stored, int64_t vocab_size) {
  if (stored.recipe) {
    if (const auto name = tokenizer_of_recipe(*stored.recipe)) return *name;
  }
  if (has_vocabulary(stored.folder)) return stored.folder.string();
  if (vocab_size == kByteTokens) return "bytes";
  if (vocab_size == kGpt2Tokens) return "gpt2";
  throw ConfigError("{} has no vocabulary in it; name one with --tokenizer",
                    stored.folder.string());
}

// A checkpoint of one model; of a population there is no telling which is meant.
fs::path only_model_in(const fs::path& checkpoint) {
  const auto manifest = train::Manifest::read_complete(checkpoint);
  if (manifest.mesh.members == 1) return checkpoint;
  throw DataError(
      "{} holds the models of {} members; name one of them, as {}", checkpoint.string(),
      manifest.mesh.members,
      train::member_folder(checkpoint, manifest.mesh.members, manifest.members.front()).string());
}

// Every file of a checkpoint, or of one member's part of it.
void verify(const fs::path& folder) {
  if (fs::exists(folder / "manifest.json")) {
    train::Manifest::read_complete(folder).verify(folder);
    return;
  }
  const fs::path parent = folder.parent_path();
  if (!folder.filename().string().starts_with("member-") || !fs::exists(parent / "manifest.json")) {
    return;
  }
  train::Manifest of_member = train::Manifest::read_complete(parent);
  std::erase_if(of_member.files, [&](const train::Manifest::File& file) {
    return fs::path(file.name).parent_path() != folder.filename();
  });
  of_member.verify(parent);
}

}  // namespace

std::optional<fs::path> recipe_of(const fs::path& folder) {
  const bool is_member = folder.filename().string().starts_with("member-") &&
                         fs::exists(folder.parent_path() / "manifest.json");
  const fs::path recipe = (is_member ? folder.parent_path() : folder) / "recipe.toml";
  return fs::exists(recipe) ? std::optional(recipe) : std::nullopt;
}

fs::path find_stored_model(const fs::path& name) {
  const fs::path named = name.filename().empty() ? name.parent_path() : name;  // "folder/"
  const train::FolderKind kind = train::folder_kind(named);
  if (kind == train::FolderKind::model) return named;
  if (kind == train::FolderKind::checkpoint) return only_model_in(named);
  const fs::path average = train::average_folder(named);
  if (fs::exists(average / "model.safetensors")) return average;
  const auto checkpoints = train::list_checkpoints(named);
  if (checkpoints.empty()) throw DataError("{} has no complete checkpoint yet", named.string());
  return only_model_in(checkpoints.back().folder);
}

StoredModel open_stored_model(const fs::path& named) {
  StoredModel stored{.folder = find_stored_model(named),
                     .recipe = std::nullopt,
                     .model = nullptr,
                     .params = nullptr};
  verify(stored.folder);
  stored.recipe = recipe_of(stored.folder);
  stored.model = nn::read_model(stored.folder);
  stored.params = std::make_unique<nn::FlatParams>(*stored.model, /*seed=*/0);
  nn::load_folder(stored.folder, *stored.model, *stored.params);
  return stored;
}

std::shared_ptr<const data::Tokenizer> tokenizer_of(const StoredModel& stored,
                                                    const std::string& wanted) {
  const auto config = stored.model->config();
  if (!config.contains("vocab_size")) {
    throw ConfigError("{} holds a {}, which knows no text", stored.folder.string(),
                      stored.model->family());
  }
  const auto vocab_size = config["vocab_size"].get<int64_t>();
  const std::string name = wanted.empty() ? tokenizer_name(stored, vocab_size) : wanted;
  auto tokenizer = data::open_tokenizer(name, places_of_machine());
  if (tokenizer->vocab_size() > vocab_size) {
    throw ConfigError("tokenizer \"{}\" has {} tokens, but the model in {} knows {}", name,
                      tokenizer->vocab_size(), stored.folder.string(), vocab_size);
  }
  return tokenizer;
}

}  // namespace outstep::apps
