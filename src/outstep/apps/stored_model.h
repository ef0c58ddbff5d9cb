#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "outstep/data/places.h"
#include "outstep/data/tokenizer.h"
#include "outstep/nn/flat_params.h"
#include "outstep/nn/model.h"

// A trained model as a person names it: a run (its newest checkpoint; of a population the average
// of its members), a checkpoint, a member's folder in it, or a folder in Hugging Face's form.

namespace outstep::apps {

struct StoredModel {
  std::filesystem::path folder;                 // holds config.json and model.safetensors
  std::optional<std::filesystem::path> recipe;  // it was trained with; none for a foreign folder
  std::unique_ptr<nn::Model> model;
  std::unique_ptr<nn::FlatParams> params;
};

// The folder alone, not loaded. Throws DataError telling what is missing.
std::filesystem::path find_stored_model(const std::filesystem::path& named);
// Checks every file of a checkpoint before anything of it is used: DataError names the altered one.
StoredModel open_stored_model(const std::filesystem::path& named);

// The recipe that the model in a folder was trained with, if it is there; that of a member of a
// population lies with the checkpoint.
std::optional<std::filesystem::path> recipe_of(const std::filesystem::path& folder);

// What turns text into the model's tokens. wanted ("bytes", "gpt2", a folder) wins; else the
// recipe's, if it trained on text; else a vocabulary in the folder; else what the number of tokens
// says. Throws ConfigError if there is no telling, or it does not fit.
std::shared_ptr<const data::Tokenizer> tokenizer_of(const StoredModel& stored,
                                                    const std::string& wanted);

}  // namespace outstep::apps
