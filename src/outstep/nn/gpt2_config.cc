#include "outstep/base/errors.h"
#include "outstep/nn/config_values.h"
#include "outstep/nn/gpt2.h"

// The two ways to describe a GPT-2: a recipe's [model] and Hugging Face's config.json.

namespace outstep::nn {
namespace {

// Settings of transformers that make another model of it; we have the one they all default to.
void refuse_variants(const ConfigValues& values) {
  const std::string& origin = values.origin();
  const auto type = values.get<std::string>("model_type", "gpt2");
  if (type != "gpt2") throw DataError("{}: model_type is \"{}\", expected \"gpt2\"", origin, type);
  const auto activation = values.get<std::string>("activation_function", "gelu_new");
  if (activation != "gelu_new" && activation != "gelu_pytorch_tanh") {
    throw DataError("{}: activation_function \"{}\" is not supported, only \"gelu_new\" is", origin,
                    activation);
  }
  const struct {
    const char* key;
    bool expected;
  } flags[] = {{"scale_attn_weights", true},
               {"scale_attn_by_inverse_layer_idx", false},
               {"reorder_and_upcast_attn", false},
               {"add_cross_attention", false}};
  for (const auto& [key, expected] : flags) {
    if (values.get<bool>(key, expected) != expected) {
      throw DataError("{}: {} = {} is not supported", origin, key, !expected);
    }
  }
}

}  // namespace

void Gpt2Options::require_takes(const ModelFacts& facts, const OriginOf& origin_of) const {
  if (facts.num_classes > 0) {
    throw ConfigError(
        "{}: model \"gpt2\" reads tokens, but {} gives images; use a resnet or mlp, or data of "
        "text",
        origin_of("name"), facts.source);
  }
  if (vocab_size < facts.vocab_size) {
    throw ConfigError("{}: model.vocab_size = {} is smaller than the {} tokens of {}",
                      origin_of("vocab_size"), vocab_size, facts.vocab_size, facts.source);
  }
  if (n_positions < facts.context) {
    throw ConfigError(
        "{}: model.n_positions = {} is shorter than the {} tokens in an example of {}",
        origin_of("n_positions"), n_positions, facts.context, facts.source);
  }
}

Gpt2Options Gpt2Options::read(io::Section& section, const ModelFacts& facts) {
  return read(section, facts, {});
}

Gpt2Options Gpt2Options::read(io::Section& section, const ModelFacts& facts,
                              const Gpt2Options& defaults) {
  const io::IntegerBounds size{.min = 1, .max = ConfigValues::kMaxSize};
  const auto known_or = [](int64_t fact, int64_t otherwise) { return fact > 0 ? fact : otherwise; };
  Gpt2Options options = read_layers(section, defaults);
  options.vocab_size =
      section.integer("vocab_size", known_or(facts.vocab_size, defaults.vocab_size), size);
  options.n_positions =
      section.integer("n_positions", known_or(facts.context, defaults.n_positions), size);
  options.tie_word_embeddings = section.flag("tie_word_embeddings", defaults.tie_word_embeddings);
  options.require_takes(facts, [&](const std::string& key) { return section.origin(key); });
  return options;
}

Gpt2Options Gpt2Options::read_layers(io::Section& section, const Gpt2Options& defaults) {
  const io::IntegerBounds size{.min = 1, .max = ConfigValues::kMaxSize};
  const io::NumberBounds share{.min = 0, .max = 0.99};
  Gpt2Options options;
  options.n_embd = section.integer("n_embd", defaults.n_embd, size);
  options.n_layer = section.integer("n_layer", defaults.n_layer, size);
  options.n_head = section.integer("n_head", defaults.n_head, size);
  options.n_inner =
      section.integer("n_inner", defaults.n_inner, {.min = 0, .max = ConfigValues::kMaxSize});
  options.embd_pdrop = section.number("embd_pdrop", defaults.embd_pdrop, share);
  options.resid_pdrop = section.number("resid_pdrop", defaults.resid_pdrop, share);
  options.attn_pdrop = section.number("attn_pdrop", defaults.attn_pdrop, share);
  options.layer_norm_epsilon = section.number("layer_norm_epsilon", defaults.layer_norm_epsilon,
                                              {.min = 0, .max = 1, .excludes_min = true});
  options.initializer_range = section.number("initializer_range", defaults.initializer_range,
                                             {.min = 0, .max = 10, .excludes_min = true});
  if (options.n_embd % options.n_head != 0) {
    throw ConfigError("{}: model.n_embd = {} is not a multiple of model.n_head = {}",
                      section.origin("n_head"), options.n_embd, options.n_head);
  }
  return options;
}

Gpt2Options Gpt2Options::from_hugging_face(const nlohmann::ordered_json& config,
                                           const std::string& origin) {
  const ConfigValues values(config, origin);
  refuse_variants(values);
  Gpt2Options options;
  options.vocab_size = values.size("vocab_size", options.vocab_size);
  options.n_positions = values.size("n_positions", options.n_positions);
  options.read_layers(values);
  options.tie_word_embeddings = values.get<bool>("tie_word_embeddings", true);
  return options;
}

void Gpt2Options::read_layers(const ConfigValues& config) {
  n_embd = config.size("n_embd", n_embd);
  n_layer = config.size("n_layer", n_layer);
  n_head = config.size("n_head", n_head);
  if (n_embd % n_head != 0) {
    throw DataError("{}: n_embd = {} is not a multiple of n_head = {}", config.origin(), n_embd,
                    n_head);
  }
  const auto inner = config.size("n_inner", 4 * n_embd);
  n_inner = inner == 4 * n_embd ? 0 : inner;
  embd_pdrop = config.number_below("embd_pdrop", 0.1, 1);    // transformers' default
  resid_pdrop = config.number_below("resid_pdrop", 0.1, 1);  // transformers' default
  attn_pdrop = config.number_below("attn_pdrop", 0.1, 1);    // transformers' default
  layer_norm_epsilon = config.number_below("layer_norm_epsilon", layer_norm_epsilon, 10);
  initializer_range = config.number_below("initializer_range", initializer_range, 10);
}

void Gpt2Options::write_layers(nlohmann::ordered_json& config) const {
  config["n_embd"] = n_embd;
  config["n_layer"] = n_layer;
  config["n_head"] = n_head;
  config["n_inner"] = n_inner > 0 ? nlohmann::ordered_json(n_inner) : nlohmann::ordered_json();
  config["embd_pdrop"] = embd_pdrop;
  config["resid_pdrop"] = resid_pdrop;
  config["attn_pdrop"] = attn_pdrop;
  config["layer_norm_epsilon"] = layer_norm_epsilon;
  config["initializer_range"] = initializer_range;
}

nlohmann::ordered_json Gpt2::config() const {
  nlohmann::ordered_json config;
  config["architectures"] = {"GPT2LMHeadModel"};
  config["model_type"] = "gpt2";
  config["activation_function"] = "gelu_new";
  config["vocab_size"] = options_.vocab_size;
  config["n_positions"] = options_.n_positions;
  options_.write_layers(config);
  config["tie_word_embeddings"] = options_.tie_word_embeddings;
  // GPT-2's own vocabulary ends with <|endoftext|>; others have no such token.
  const bool has_end_of_text = options_.vocab_size == 50257;
  for (const char* key : {"bos_token_id", "eos_token_id"}) {
    config[key] = has_end_of_text ? nlohmann::ordered_json(50256) : nlohmann::ordered_json();
  }
  config["dtype"] = "float32";
  return config;
}

}  // namespace outstep::nn
