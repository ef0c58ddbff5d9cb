#include "outstep/nn/revgpt.h"

#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/nn/config_values.h"
#include "outstep/nn/gpt2_parts.h"
#include "outstep/nn/reversible_layers.h"

// B examples, T tokens, C = n_embd, V = vocab_size

namespace outstep::nn {
namespace {

class Embedding : public Gpt2Parts<Block> {
 public:
  explicit Embedding(const Gpt2Options& options) : Gpt2Parts("transformer.wte", options) {
    tables_ = add_tables();
  }

  Streams forward(const Streams& input, ForwardContext& context) override {
    const at::Tensor x = as_stream(embed(input.x, tables_, context));  // [B, T, C]
    return {.x = x, .other = x};
  }

  Parameter& tokens() { return *tables_.tokens; }

 private:
  Tables tables_;
};

class Head : public Gpt2Parts<Block> {
 public:
  // A tied head uses the embedding's table; null: a table of its own.
  Head(const RevGptOptions& options, Parameter* tied)
      : Gpt2Parts("lm_head", options.gpt), head_(options.head) {
    const int64_t width = (head_ == "concat" ? 2 : 1) * options.gpt.n_embd;
    norm_ = add_norm("transformer.ln_f", width);
    if (tied) {
      share_parameter(*tied);
      table_ = tied;
    } else {
      table_ = &add_parameter("lm_head.weight", {options.gpt.vocab_size, width},
                              init::normal(options.gpt.initializer_range));
    }
  }

  Streams forward(const Streams& input, ForwardContext&) override {
    const at::Tensor x = joined(input, head_);  // [B, T, C or 2C]
    return {.x = at::linear(kernels::layer_norm(x, with(norm_)), table_->tensor)};  // [B, T, V]
  }

 private:
  const std::string head_;
  Norm norm_;
  Parameter* table_;  // [V, C or 2C]
};

}  // namespace

RevGpt::RevGpt(RevGptOptions options) : options_(std::move(options)) {
  check(options_.gpt.n_embd % options_.gpt.n_head == 0, "n_head divides n_embd");
  check(!options_.gpt.tie_word_embeddings || options_.head == "mean",
        "a tied head is as wide as the embedding");
  auto embedding = std::make_unique<Embedding>(options_.gpt);
  Parameter& tokens = embedding->tokens();
  blocks.push_back(std::move(embedding));
  for (auto& layer : make_reversible_layers({.sizes = options_.gpt})) {
    blocks.push_back(std::move(layer));
  }
  blocks.push_back(
      std::make_unique<Head>(options_, options_.gpt.tie_word_embeddings ? &tokens : nullptr));
}

RevGptOptions RevGptOptions::read(io::Section& section, const ModelFacts& facts) {
  RevGptOptions options;
  options.gpt = Gpt2Options::read(section, facts, {.tie_word_embeddings = false});
  options.head = section.text("head", options.head, {.choices = {"mean", "concat"}});
  if (options.gpt.tie_word_embeddings && options.head == "concat") {
    throw ConfigError(
        "{}: model.tie_word_embeddings needs a head as wide as the embedding; use head = \"mean\"",
        section.origin("tie_word_embeddings"));
  }
  return options;
}

RevGptOptions RevGptOptions::from_config(const nlohmann::ordered_json& config,
                                         const std::string& origin) {
  RevGptOptions options;
  nlohmann::ordered_json plain = config;
  if (plain.is_object()) plain["model_type"] = "gpt2";
  options.gpt = Gpt2Options::from_hugging_face(plain, origin);
  options.head =
      ConfigValues(config, origin).one_of<std::string>("head", options.head, {"mean", "concat"});
  if (options.head == "concat" && options.gpt.tie_word_embeddings) {
    throw DataError("{}: a tied head cannot be \"concat\"", origin);
  }
  return options;
}

nlohmann::ordered_json RevGpt::config() const {
  nlohmann::ordered_json config = Gpt2(options_.gpt).config();
  config["architectures"] = {"OutstepRevGpt"};
  config["model_type"] = "outstep_revgpt";
  config["head"] = options_.head;
  return config;
}

const std::string& RevGpt::family() const {
  static const std::string name = "revgpt";
  return name;
}

at::Tensor RevGpt::example_input(int64_t batch) const {
  return Gpt2(options_.gpt).example_input(batch);
}

at::Tensor RevGpt::example_target(int64_t batch) const { return example_input(batch); }

}  // namespace outstep::nn
