#include "outstep/nn/revnet.h"

#include <optional>

#include "outstep/base/errors.h"
#include "outstep/nn/conv_parts.h"
#include "outstep/nn/coupling.h"

// B images, C channels of a stream, h × w pixels

namespace outstep::nn {
namespace {

constexpr int64_t kExpansion = 4;  // of a bottleneck: its outer channels over its inner ones

// Blocks that own a residual function; Base is Block or Coupling.
template <typename Base>
class ResidualParts : public ConvParts<Base> {
 protected:
  using ConvParts<Base>::ConvParts;

  // The layers of f, from the block's name: conv1, bn1, conv2, …
  std::vector<ConvNorm> add_residual(const ConvShape& outer, bool is_bottleneck) {
    std::vector<ConvShape> shapes;
    if (is_bottleneck) {
      const int64_t inner = outer.out / kExpansion;
      shapes = {{.in = outer.in, .out = inner, .kernel = 1},
                {.in = inner, .out = inner, .kernel = 3, .stride = outer.stride},
                {.in = inner, .out = outer.out, .kernel = 1}};
    } else {
      shapes = {{.in = outer.in, .out = outer.out, .kernel = 3, .stride = outer.stride},
                {.in = outer.out, .out = outer.out, .kernel = 3}};
    }
    std::vector<ConvNorm> layers;
    for (size_t i = 0; i < shapes.size(); ++i) {
      layers.push_back(this->add_biased_conv_norm(fmt::format("{}.conv{}", this->name(), i + 1),
                                                  fmt::format("{}.bn{}", this->name(), i + 1),
                                                  shapes[i]));
    }
    return layers;
  }
};

class Stem : public ConvParts<Block> {
 public:
  explicit Stem(const RevNetOptions& options)
      : ConvParts("stem"), width_(options.width), pools_(options.stem == "imagenet") {
    layer_ = add_biased_conv_norm("conv1", "bn1",
                                  {.in = options.in_channels,
                                   .out = 2 * width_,
                                   .kernel = pools_ ? 7 : 3,
                                   .stride = pools_ ? 2 : 1});
  }

  // The first half of the channels is x.
  Streams forward(const Streams& input, ForwardContext& context) override {
    at::Tensor both = as_stream(layer_.apply_relu(input.x, context));
    if (pools_) both = at::max_pool2d(both, 2, 2);
    const auto layout = both.suggest_memory_format();
    return {.x = both.narrow(1, 0, width_).contiguous(layout),
            .other = both.narrow(1, width_, width_).contiguous(layout)};
  }

 private:
  int64_t width_;
  bool pools_;
  ConvNorm layer_;
};

class ReversibleBlock : public ResidualParts<Coupling> {
 public:
  ReversibleBlock(std::string name, int64_t channels, bool is_bottleneck)
      : ResidualParts(std::move(name)) {
    layers_ = add_residual({.in = channels, .out = channels, .kernel = 3}, is_bottleneck);
  }

  at::Tensor residual(const at::Tensor& input, ForwardContext& context) override {
    at::Tensor x = input;
    for (const ConvNorm& layer : layers_) x = layer.apply_relu(x, context);
    return x;
  }

 private:
  std::vector<ConvNorm> layers_;
};

// Changes the shape, and so cannot be undone.
class ReshapingBlock : public ResidualParts<Block> {
 public:
  ReshapingBlock(std::string name, const ConvShape& outer, bool is_bottleneck)
      : ResidualParts(std::move(name)) {
    layers_ = add_residual(outer, is_bottleneck);
    const ConvShape projection{
        .in = outer.in, .out = outer.out, .kernel = 1, .stride = outer.stride};
    other_ = add_biased_conv_norm(this->name() + ".downsample.0", this->name() + ".downsample.1",
                                  projection);
    if (is_bottleneck) {
      own_ = add_biased_conv_norm(this->name() + ".downsample_x.0",
                                  this->name() + ".downsample_x.1", projection);
    }
  }

  Streams forward(const Streams& input, ForwardContext& context) override {
    const at::Tensor first = layers_[0].apply_relu(input.x, context);
    at::Tensor f = first;
    for (size_t i = 1; i < layers_.size(); ++i) f = layers_[i].apply_relu(f, context);
    return {.x = as_stream(f.add(other_.apply(input.other, context))),
            .other = as_stream(own_ ? own_->apply(input.x, context) : first)};
  }

 private:
  std::vector<ConvNorm> layers_;
  ConvNorm other_;               // of x̃
  std::optional<ConvNorm> own_;  // of x, with bottlenecks
};

}  // namespace

RevNet::RevNet(RevNetOptions options) : ImageModel(std::move(options)) {
  const bool is_bottleneck = options_.kind == "bottleneck";
  const std::vector<std::string>& list = options_.blocks;
  check(list.size() >= 2 && list.front() == "stem" && list.back() == "head",
        "a RevNet begins with its stem and ends with its head");
  blocks.push_back(std::make_unique<Stem>(options_));
  int64_t channels = options_.width;
  int layer = 1, number = 0;
  for (size_t i = 1; i + 1 < list.size(); ++i) {
    const bool is_first = i == 1;
    if (list[i] == "down" && !is_first) {
      ++layer;
      number = 0;
    }
    std::string name = fmt::format("layer{}.{}", layer, number++);
    if (list[i] == "rev") {
      blocks.push_back(std::make_unique<ReversibleBlock>(std::move(name), channels, is_bottleneck));
      continue;
    }
    const bool widens = list[i] == "widen";
    const int64_t out = channels * (widens ? kExpansion : 2);
    blocks.push_back(std::make_unique<ReshapingBlock>(
        std::move(name),
        ConvShape{.in = channels, .out = out, .kernel = 3, .stride = widens ? 1 : 2},
        is_bottleneck));
    channels = out;
  }
  blocks.push_back(std::make_unique<MeanHead>("fc", 2 * channels, options_.num_classes));
}

const std::string& RevNet::family() const {
  static const std::string name = "revnet";
  return name;
}

}  // namespace outstep::nn
