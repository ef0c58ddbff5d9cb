#include "outstep/train/soup.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/base/version.h"
#include "outstep/io/files.h"
#include "outstep/io/json.h"
#include "outstep/io/safetensors.h"
#include "outstep/nn/hugging_face.h"
#include "outstep/train/checkpoint.h"
#include "outstep/train/manifest.h"
#include "outstep/train/run_folder.h"

namespace outstep::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

void add_checkpoint(const fs::path& folder, const fs::path& named,
                    std::vector<Ingredient>& ingredients) {
  const Manifest manifest = Manifest::read_complete(folder);
  manifest.verify(folder);
  for (const int member : manifest.members) {
    ingredients.push_back(
        {.folder = member_folder(folder, manifest.mesh.members, member), .named = named});
  }
}

// Keys that say how a model computes; read, so that what only differs in spelling is the same.
Json config_of(const Ingredient& ingredient) { return nn::read_model(ingredient.folder)->config(); }

void require_same_config(const Ingredient& first, const Ingredient& other) {
  const auto our_model = nn::read_model(first.folder), their_model = nn::read_model(other.folder);
  // Its keys are other ones altogether.
  if (our_model->family() != their_model->family()) {
    throw DataError("{} holds a {}, {} a {}; a soup is made of models of one shape",
                    other.folder.string(), their_model->family(), first.folder.string(),
                    our_model->family());
  }
  const Json ours = our_model->config(), theirs = their_model->config();
  for (const auto& [key, value] : ours.items()) {
    if (theirs.contains(key) && theirs[key] == value) continue;
    throw DataError(
        "{}: its config.json has {} = {}, that of {} has {}; a soup is made of models of one shape",
        other.folder.string(), key, theirs.contains(key) ? theirs[key].dump() : "nothing",
        first.folder.string(), value.dump());
  }
}

std::string describe(const io::TensorInfo& info) {
  return fmt::format("{} [{}]", c10::toString(info.dtype), fmt::join(info.shape, ", "));
}

void require_same_tensors(const io::Safetensors& first, const io::Safetensors& other) {
  const auto refuse = [&](const std::string& name, const std::string& ours,
                          const std::string& theirs) {
    throw DataError(
        "{}: tensor \"{}\" is {}, in {} it is {}; a soup is made of models of one shape",
        other.path().string(), name, theirs, first.path().string(), ours);
  };
  for (const auto& [name, info] : first.tensors()) {
    const auto found = other.tensors().find(name);
    if (found == other.tensors().end()) refuse(name, describe(info), "missing");
    if (found->second.shape != info.shape || found->second.dtype != info.dtype) {
      refuse(name, describe(info), describe(found->second));
    }
  }
  for (const auto& [name, info] : other.tensors()) {
    if (!first.has(name)) refuse(name, "missing", describe(info));
  }
}

at::Tensor mean_of(const std::vector<io::Safetensors>& files, const std::string& name) {
  const at::Tensor first = files.front().tensor(name);
  at::Tensor sum = first.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true);
  for (size_t i = 1; i < files.size(); ++i) sum.add_(files[i].tensor(name));
  return sum.div_(std::ssize(files)).to(first.scalar_type());
}

// What a model's file says of itself is repeated, as a soup's does of its ingredients.
Json provenance_of(const std::vector<Ingredient>& ingredients,
                   const std::vector<io::Safetensors>& files) {
  Json list = Json::array();
  for (size_t i = 0; i < ingredients.size(); ++i) {
    Json entry{{"folder", ingredients[i].folder.string()}, {"from", ingredients[i].named.string()}};
    const auto& metadata = files[i].metadata();
    if (const auto soup = metadata.find("soup"); soup != metadata.end()) {
      const Json told = io::try_parse_json(soup->second);
      if (!told.is_discarded()) entry["soup"] = told;
    }
    list.push_back(entry);
  }
  return {{"kind", "uniform soup"},
          {"batch_norm", "average"},
          {"outstep", build_info().version},
          {"commit", build_info().commit},
          {"ingredients", list}};
}

}  // namespace

std::vector<Ingredient> find_ingredients(const std::vector<fs::path>& named) {
  std::vector<Ingredient> ingredients;
  for (const fs::path& typed : named) {
    const fs::path folder = typed.has_filename() ? typed : typed.parent_path();
    const FolderKind kind = folder_kind(folder);
    if (kind == FolderKind::model) {
      ingredients.push_back({.folder = folder, .named = folder});
    } else if (kind == FolderKind::checkpoint) {
      add_checkpoint(folder, folder, ingredients);
    } else {
      const auto checkpoints = list_checkpoints(folder);
      if (checkpoints.empty())
        throw DataError("{} has no complete checkpoint yet", folder.string());
      add_checkpoint(checkpoints.back().folder, folder, ingredients);
    }
  }
  return ingredients;
}

Json write_soup(const std::vector<Ingredient>& ingredients, const fs::path& to,
                const std::function<void()>& go_on) {
  check(!ingredients.empty(), "a soup has an ingredient");
  std::vector<io::Safetensors> files;
  for (const Ingredient& ingredient : ingredients) {
    require_same_config(ingredients.front(), ingredient);
    files.emplace_back(ingredient.folder / "model.safetensors");
    require_same_tensors(files.front(), files.back());
  }
  std::vector<io::AnnouncedTensor> announced;
  for (const auto& [name, info] : files.front().tensors()) {
    if (!c10::isFloatingType(info.dtype)) {
      throw DataError("{}: tensor \"{}\" is {}; only floating-point numbers have a mean",
                      files.front().path().string(), name, describe(info));
    }
    announced.push_back({name, info.dtype, info.shape});
  }
  std::error_code error;
  fs::create_directories(to, error);
  if (error) throw DataError("cannot make the folder {}: {}", to.string(), error.message());
  const Json provenance = provenance_of(ingredients, files);
  const auto mean = [&](const std::string& name) {
    if (go_on) go_on();
    return mean_of(files, name);
  };
  io::write_safetensors(to / "model.safetensors", announced, mean,
                        {{"format", "pt"}, {"soup", provenance.dump()}});
  io::write_text_atomically(to / "config.json", config_of(ingredients.front()).dump(2) + "\n");
  return provenance;
}

}  // namespace outstep::train
