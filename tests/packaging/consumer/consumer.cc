#include <iostream>
#include <nlohmann/json.hpp>

#include "outstep/nn/flat_params.h"
#include "outstep/nn/models.h"

int main() {
  const auto config = nlohmann::ordered_json::parse(
      R"({"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 4, "vocab_size": 16})");
  const auto model = outstep::nn::make_model(config, "consumer");
  std::cout << outstep::nn::FlatParams(*model, 1).num_parameters() << " parameters\n";
}
