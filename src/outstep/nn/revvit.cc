#include "outstep/nn/revvit.h"

#include "outstep/base/errors.h"
#include "outstep/nn/gpt2_parts.h"
#include "outstep/nn/reversible_layers.h"

// B images, I channels, P pixels a side of a patch, N patches, T tokens, C = n_embd

namespace outstep::nn {
namespace {

class Embedding : public Gpt2Parts<Block> {
 public:
  explicit Embedding(const RevVitOptions& options)
      : Gpt2Parts("embedding", options.layers), drop_(purpose("embedding.drop")) {
    const int64_t width = options_.n_embd, size = options.patch_size;
    const Init init = init::normal(options_.initializer_range);
    weight_ = &add_parameter("embedding.patches.weight", {width, options.in_channels, size, size},
                             init::kaiming_uniform_fan_in());
    bias_ = &add_parameter("embedding.patches.bias", {width}, init::zeros(), Decay::no);
    if (options.pool == "token") token_ = &add_parameter("embedding.token", {width}, init);
    positions_ = &add_parameter("embedding.positions", {options.num_tokens(), width}, init);
  }

  Streams forward(const Streams& input, ForwardContext& context) override {
    at::Tensor x = at::linear(patches_of(input.x), weight_->tensor.flatten(1), bias_->tensor);
    if (token_) x = at::cat({token_->tensor.to(x.dtype()).expand({x.size(0), 1, -1}), x}, 1);
    x = dropout(x.add(positions_->tensor), options_.embd_pdrop, context, drop_);
    x = as_stream(x);  // [B, T, C]
    return {.x = x, .other = x};
  }

 private:
  // [B, I, S, S] -> [B, N, I · P · P], row by row
  at::Tensor patches_of(const at::Tensor& images) const {
    const int64_t size = weight_->shape.back(), num = images.size(2) / size;
    return images.reshape({images.size(0), images.size(1), num, size, num, size})
        .permute({0, 2, 4, 1, 3, 5})
        .reshape({images.size(0), num * num, images.size(1) * size * size});
  }

  uint32_t drop_;
  Parameter* weight_;           // [C, I, P, P]
  Parameter* bias_;             // [C]
  Parameter* token_ = nullptr;  // [C], with a class token
  Parameter* positions_;        // [T, C]
};

class Head : public Gpt2Parts<Block> {
 public:
  explicit Head(const RevVitOptions& options)
      : Gpt2Parts("head", options.layers),
        head_(options.head),
        has_token_(options.pool == "token") {
    const int64_t width = (head_ == "concat" ? 2 : 1) * options_.n_embd;
    norm_ = add_norm("head.norm", width);
    weight_ = &add_parameter("head.fc.weight", {options.num_classes, width},
                             init::normal(options_.initializer_range));
    bias_ = &add_parameter("head.fc.bias", {options.num_classes}, init::zeros(), Decay::no);
  }

  Streams forward(const Streams& input, ForwardContext&) override {
    const at::Tensor tokens = joined(input, head_);  // [B, T, C or 2C]
    const at::Tensor image =
        has_token_ ? kernels::layer_norm(tokens.select(1, 0).contiguous(), with(norm_))
                   : kernels::layer_norm(tokens, with(norm_)).mean(1);  // [B, C or 2C]
    return {.x = at::linear(image, weight_->tensor, bias_->tensor)};    // [B, num_classes]
  }

 private:
  const std::string head_;
  bool has_token_;
  Norm norm_;
  Parameter* weight_;  // [num_classes, C or 2C]
  Parameter* bias_;
};

}  // namespace

RevVit::RevVit(RevVitOptions options) : ImageModel(std::move(options)) {
  check(options_.layers.n_embd % options_.layers.n_head == 0, "n_head divides n_embd");
  check(options_.image_size % options_.patch_size == 0, "patches fill the image");
  blocks.push_back(std::make_unique<Embedding>(options_));
  for (auto& layer : make_reversible_layers({.sizes = options_.layers, .is_causal = false})) {
    blocks.push_back(std::move(layer));
  }
  blocks.push_back(std::make_unique<Head>(options_));
}

const std::string& RevVit::family() const {
  static const std::string name = "revvit";
  return name;
}

void RevVitOptions::require_takes(const ModelFacts& facts, const OriginOf& origin_of) const {
  require_takes_images("revvit", {.in_channels = in_channels, .num_classes = num_classes}, facts,
                       origin_of);
  if (facts.input_shape.empty()) return;
  const int64_t rows = facts.input_shape[1], columns = facts.input_shape[2];
  if (rows == image_size && columns == image_size) return;
  throw ConfigError(
      "{}: this model \"revvit\" reads images of {}×{}, but those of {} are {}×{}; use another "
      "model, as \"resnet18\"",
      origin_of("name"), image_size, image_size, facts.source, rows, columns);
}

RevVitOptions RevVitOptions::read(io::Section& section, const ModelFacts& facts) {
  RevVitOptions options;
  options.layers = Gpt2Options::read_layers(section, options.layers);
  options.head = section.text("head", options.head, {.choices = {"mean", "concat"}});
  options.pool = section.text("pool", options.pool, {.choices = {"mean", "token"}});
  read_image_keys(section, facts, options);
  options.patch_size =
      section.integer("patch_size", options.image_size <= kLargestSmallImage ? 4 : 16,
                      {.min = 1, .max = ConfigValues::kMaxSize});
  if (options.image_size % options.patch_size != 0) {
    throw ConfigError("{}: model.patch_size = {} does not divide the {} pixels of an image",
                      section.origin("patch_size"), options.patch_size, options.image_size);
  }
  return options;
}

RevVitOptions RevVitOptions::from_config(const nlohmann::ordered_json& config,
                                         const std::string& origin) {
  const ConfigValues values(config, origin);
  RevVitOptions options;
  options.layers.read_layers(values);
  options.head = values.one_of<std::string>("head", options.head, {"mean", "concat"});
  options.pool = values.one_of<std::string>("pool", options.pool, {"mean", "token"});
  read_image_keys(values, options);
  options.patch_size = values.size("patch_size", options.patch_size);
  if (options.image_size % options.patch_size != 0) {
    throw DataError("{}: \"patch_size\" {} does not divide \"image_size\" {}", origin,
                    options.patch_size, options.image_size);
  }
  return options;
}

nlohmann::ordered_json RevVit::config() const {
  nlohmann::ordered_json config;
  config["model_type"] = "outstep_revvit";
  options_.layers.write_layers(config);
  config["head"] = options_.head;
  config["pool"] = options_.pool;
  write_image_keys(config, options_);
  config["patch_size"] = options_.patch_size;
  return config;
}

}  // namespace outstep::nn
