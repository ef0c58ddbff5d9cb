#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "outstep/nn/block.h"
#include "outstep/nn/model_facts.h"

namespace outstep::nn {

// Mean cross-entropy over all targets.
struct LossValue {
  at::Tensor loss;        // [] float32, with graph
  int64_t num_units = 0;  // targets it is the mean over
};

class Model {
 public:
  virtual ~Model() = default;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  std::vector<std::unique_ptr<Block>> blocks;  // stem, …, head
  double label_smoothing = 0;                  // share of each target spread over all classes

  virtual const std::string& family() const = 0;  // "gpt2", "resnet", "mlp"
  // What training minimises: logits [B, T, V] and targets [B, T], or [B, K] and classes [B] or
  // their probabilities, as data::Batch has them. With label smoothing if it is set.
  LossValue loss(const at::Tensor& logits, const at::Tensor& targets) const;
  // What evaluation reports: the cross-entropy without smoothing.
  LossValue plain_loss(const at::Tensor& logits, const at::Tensor& targets) const;
  // Throws ConfigError if the model cannot take what the data gives: examples of another kind or
  // shape, tokens or targets beyond those it knows.
  virtual void require_takes(const ModelFacts& facts, const OriginOf& origin_of) const = 0;
  // Whether images run faster with channels last; the engine then converts the input once.
  virtual bool prefers_channels_last() const { return false; }
  // config.json of the exported folder (Hugging Face's keys for GPT-2).
  virtual nlohmann::ordered_json config() const = 0;
  // The inverse view: what a batch of this model looks like, for dry runs.
  virtual at::Tensor example_input(int64_t batch) const = 0;
  virtual at::Tensor example_target(int64_t batch) const = 0;

  at::Tensor forward(const at::Tensor& input, ForwardContext& context) const;
  int64_t num_parameters() const;  // shared ones once

 protected:
  Model() = default;
};

// Of logits [.., K] and targets [..]: how many are hit by the largest logit. No graph.
int64_t count_correct(const at::Tensor& logits, const at::Tensor& targets);

}  // namespace outstep::nn
