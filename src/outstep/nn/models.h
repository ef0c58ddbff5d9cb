#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "outstep/io/settings.h"
#include "outstep/nn/model.h"
#include "outstep/nn/model_facts.h"

// The models by name.
//
//   auto model = make_model(settings.section("model"), {.source = "data \"text\"", .vocab_size =
//   256, .context = 128}); FlatParams params(*model, seed);

namespace outstep::nn {

// "gpt2", "resnet18", "resnet34", "resnet50", "vgg11", "vgg16", "revgpt", "revvit", "revnet18",
// "revnet34", "revnet50", "revnet" (its blocks given by hand), "mlp"
std::vector<std::string> model_names();

// Reads model.name, the keys of that family, and model.label_smoothing. Explicit settings win over
// the facts; where the two cannot both be (a vocabulary smaller than the data's,
// Model::require_takes) it throws a ConfigError that names both.
std::unique_ptr<Model> make_model(io::Section section, const ModelFacts& facts);

// From the config.json that Model::config() or, for GPT-2, transformers wrote. Throws DataError,
// beginning with origin.
std::unique_ptr<Model> make_model(const nlohmann::ordered_json& config, const std::string& origin);

}  // namespace outstep::nn
