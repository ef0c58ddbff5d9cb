#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <vector>

namespace outstep::train {

// A model in a soup: its folder (config.json, model.safetensors) and what is known of its origin,
// which the soup's file repeats.
struct Ingredient {
  std::filesystem::path folder;
  std::filesystem::path named;  // the run, checkpoint or folder that a person named
};

// What a person names as ingredients: of a run (its newest checkpoint) or a checkpoint all members,
// of a model folder the one. Checks every file of a checkpoint. Throws DataError.
std::vector<Ingredient> find_ingredients(const std::vector<std::filesystem::path>& named);

// Writes the mean of the models, tensor by tensor, into a folder: one tensor is in memory at a
// time, summed in float64 in the order of the ingredients. Throws DataError naming the first tensor
// (or the key of config.json) in which an ingredient differs from the first one, before anything is
// written. Returns the provenance that stands in the file's metadata under "soup". go_on is called
// before each tensor and may throw.
nlohmann::ordered_json write_soup(const std::vector<Ingredient>& ingredients,
                                  const std::filesystem::path& to,
                                  const std::function<void()>& go_on = {});

}  // namespace outstep::train
