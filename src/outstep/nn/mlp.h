#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "outstep/io/settings.h"
#include "outstep/nn/model.h"
#include "outstep/nn/model_facts.h"

// A multilayer perceptron over flattened images or other samples. Each hidden layer is a block
// ("layers.0", …), then "head". Shapes: images [B, …] float32 -> activations [B, hidden] -> logits
// [B, num_classes].

namespace outstep::nn {

struct MlpOptions {
  std::vector<int64_t> input_shape = {1, 28, 28};
  std::vector<int64_t> hidden_sizes = {256, 256};
  int64_t num_classes = 10;
  std::string activation = "relu";  // "relu", "gelu" or "tanh"

  static MlpOptions read(io::Section& section, const ModelFacts& facts);  // throws ConfigError
  static MlpOptions from_config(const nlohmann::ordered_json& config,
                                const std::string& origin);  // throws DataError

  void require_takes(const ModelFacts& facts, const OriginOf& origin_of) const;
};

class Mlp : public Model {
 public:
  explicit Mlp(MlpOptions options);

  const MlpOptions& options() const { return options_; }
  const std::string& family() const override;
  void require_takes(const ModelFacts& facts, const OriginOf& origin_of) const override {
    options_.require_takes(facts, origin_of);
  }
  nlohmann::ordered_json config() const override;
  at::Tensor example_input(int64_t batch) const override;   // [B] + input_shape
  at::Tensor example_target(int64_t batch) const override;  // [B] int64

 private:
  MlpOptions options_;
};

}  // namespace outstep::nn
