#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "outstep/data/places.h"
#include "outstep/data/tokenizer.h"
#include "outstep/nn/flat_params.h"
#include "outstep/nn/model.h"

// A trained model as a person names it: a run (its newest checkpoint), a checkpoint, or a folder in
// Hugging Face's form.

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

// What turns text into the model's tokens. wanted ("bytes", "gpt2", a folder) wins; else the
// recipe's, if it trained on text; else a vocabulary in the folder; else what the number of tokens
// says. Throws ConfigError if there is no telling, or it does not fit.
std::shared_ptr<const data::Tokenizer> tokenizer_of(const StoredModel& stored,
                                                    const std::string& wanted);

}  // namespace outstep::apps
