#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "outstep/nn/block.h"

namespace outstep::nn {

// Mean cross-entropy over all targets, and how many the largest logit hits.
struct LossValue {
  at::Tensor loss;         // [] float32, with graph
  int64_t num_units = 0;   // targets that count
};

class Model {
 public:
  virtual ~Model() = default;

  std::vector<std::unique_ptr<Block>> blocks;  // stem, …, head

  virtual const std::string& family() const = 0;  // "gpt2", "resnet", "mlp"
  // logits [B, T, V] and targets [B, T], or [B, K] and [B].
  virtual LossValue loss(const at::Tensor& logits, const at::Tensor& targets) const;
  // Whether images run faster with channels last; the engine then converts the input once.
  virtual bool prefers_channels_last() const { return false; }
  // config.json of the exported folder (Hugging Face's keys for GPT-2).
  virtual nlohmann::ordered_json config() const = 0;
  // The inverse view: what a batch of this model looks like, for dry runs.
  virtual at::Tensor example_input(int64_t batch) const = 0;
  virtual at::Tensor example_target(int64_t batch) const = 0;

  at::Tensor forward(const at::Tensor& input, ForwardContext& context) const;
  int64_t num_parameters() const;  // shared ones once
};

// Of logits [.., K] and targets [..]: how many are hit by the largest logit. No graph.
int64_t count_correct(const at::Tensor& logits, const at::Tensor& targets);

}  // namespace outstep::nn
