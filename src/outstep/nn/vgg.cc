#include "outstep/nn/vgg.h"

#include <span>

#include "outstep/base/errors.h"
#include "outstep/nn/conv_parts.h"

namespace outstep::nn {
namespace {

constexpr int64_t kNumPools = 5;
constexpr int64_t kSmallestImage = 1 << kNumPools;  // so that every pool has something to halve

// A convolution's channels in units of the first one's, and whether a pool follows.
struct Layer {
  int64_t factor;
  bool pools = false;
};

std::span<const Layer> layers_of(int depth) {
  static constexpr Layer k11[] = {{1, true}, {2, true}, {4}, {4, true},
                                  {8},       {8, true}, {8}, {8, true}};
  static constexpr Layer k16[] = {{1}, {1, true}, {2},       {2, true}, {4}, {4},      {4, true},
                                  {8}, {8},       {8, true}, {8},       {8}, {8, true}};
  if (depth == 11) return k11;
  check(depth == 16, "a VGG of a known depth");
  return k16;
}

class Convolution : public ConvParts<PlainBlock> {
 public:
  // number: where torchvision's list of layers has the convolution.
  Convolution(int number, const ConvShape& shape, bool pools)
      : ConvParts(fmt::format("features.{}", number)), pools_(pools) {
    layer_ = add_biased_conv_norm(name(), fmt::format("features.{}", number + 1), shape);
  }

  at::Tensor transform(const at::Tensor& input, ForwardContext& context) override {
    const at::Tensor x = layer_.apply_relu(input, context);
    return pools_ ? at::max_pool2d(x, 2, 2) : x;
  }

 private:
  bool pools_;
  ConvNorm layer_;
};

}  // namespace

Vgg::Vgg(VggOptions options) : ImageModel(std::move(options)) {
  int64_t channels = options_.in_channels;
  int number = 0;
  for (const Layer& layer : layers_of(options_.depth)) {
    const ConvShape shape{.in = channels, .out = layer.factor * options_.width, .kernel = 3};
    blocks.push_back(std::make_unique<Convolution>(number, shape, layer.pools));
    channels = shape.out;
    number += layer.pools ? 4 : 3;  // the convolution, its norm, its ReLU, its pool
  }
  blocks.push_back(std::make_unique<MeanHead>("classifier", channels, options_.num_classes));
}

const std::string& Vgg::family() const {
  static const std::string name = "vgg";
  return name;
}

void VggOptions::require_takes(const ModelFacts& facts, const OriginOf& origin_of) const {
  const std::string model = fmt::format("vgg{}", depth);
  require_takes_images(model, {.in_channels = in_channels, .num_classes = num_classes}, facts,
                       origin_of);
  if (facts.input_shape.empty()) return;
  const int64_t rows = facts.input_shape[1], columns = facts.input_shape[2];
  if (rows >= kSmallestImage && columns >= kSmallestImage) return;
  throw ConfigError(
      "{}: model \"{}\" halves images {} times and so takes {}×{} or more, but those of {} are "
      "{}×{}; use model \"resnet18\"",
      origin_of("name"), model, kNumPools, kSmallestImage, kSmallestImage, facts.source, rows,
      columns);
}

VggOptions VggOptions::read(io::Section& section, int depth, const ModelFacts& facts) {
  VggOptions options{.depth = depth};
  read_image_keys(section, facts, options);
  return options;
}

VggOptions VggOptions::from_config(const nlohmann::ordered_json& config,
                                   const std::string& origin) {
  const ConfigValues values(config, origin);
  VggOptions options;
  options.depth = static_cast<int>(values.one_of<int64_t>("depth", options.depth, {11, 16}));
  read_image_keys(values, options);
  return options;
}

nlohmann::ordered_json Vgg::config() const {
  nlohmann::ordered_json config;
  config["model_type"] = "outstep_vgg";
  config["depth"] = options_.depth;
  write_image_keys(config, options_);
  return config;
}

}  // namespace outstep::nn
