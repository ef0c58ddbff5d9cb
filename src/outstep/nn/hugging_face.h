#pragma once

#include <filesystem>
#include <memory>

#include "outstep/nn/flat_params.h"
#include "outstep/nn/model.h"

// Model folders as Hugging Face's transformers reads and writes them: config.json and
// model.safetensors.
//
//   write_folder(folder, *model, params);      // GPT2LMHeadModel.from_pretrained(folder) loads it
//   auto model = read_model(folder);
//   FlatParams params(*model, seed);
//   load_folder(folder, *model, params);

namespace outstep::nn {

// Throws DataError (a full disk). The folder is made if it is not there.
void write_folder(const std::filesystem::path& folder, const Model& model,
                  const FlatParams& params);

// The model that config.json describes, not yet placed. Throws DataError.
std::unique_ptr<Model> read_model(const std::filesystem::path& folder);

// Loads model.safetensors of a folder, or a safetensors file, into a model of the same shape. Takes
// our files, those of transformers (whose GPT-2 may lack the prefix "transformer.", and may carry
// attention masks or a copy of a tied head) and torchvision's weights saved as safetensors. Throws
// DataError naming what is missing, unknown or of another shape.
void load_folder(const std::filesystem::path& path, const Model& model, FlatParams& params);

}  // namespace outstep::nn
