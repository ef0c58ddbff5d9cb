#include "outstep/nn/revnet.h"

#include <cmath>
#include <optional>

#include "outstep/base/errors.h"
#include "outstep/nn/batch_norm.h"
#include "outstep/nn/coupling.h"
#include "outstep/nn/images.h"

// B images, C channels of a stream, h × w pixels

namespace outstep::nn {
namespace {

constexpr int64_t kExpansion = 4;  // of a bottleneck: its outer channels over its inner ones

struct Shape {
  int64_t in;
  int64_t out;
  int64_t kernel;
  int64_t stride = 1;
};

// A convolution with bias, and the batch norm behind it. Padding keeps the size at stride 1.
struct ConvNorm {
  Parameter* weight;  // [out, in, kernel, kernel]
  Parameter* bias;    // [out]
  int64_t stride;
  int64_t padding;
  BatchNorm norm;

  at::Tensor apply(const at::Tensor& x, const ForwardContext& context) const {
    return batch_norm(convolve(x), norm, context);
  }
  at::Tensor apply_relu(const at::Tensor& x, const ForwardContext& context) const {
    return batch_norm_relu(convolve(x), norm, context);
  }

 private:
  at::Tensor convolve(const at::Tensor& x) const {
    return at::conv2d(x, weight->tensor, bias->tensor, stride, padding);
  }
};

// Blocks that own such layers; Base is Block or Coupling.
template <typename Base>
class WithLayers : public Base {
 protected:
  using Base::Base;

  ConvNorm add_layer(const std::string& conv, const std::string& norm, const Shape& shape) {
    const double fan_in = static_cast<double>(shape.in * shape.kernel * shape.kernel);
    Parameter& weight =
        this->add_parameter(conv + ".weight", {shape.out, shape.in, shape.kernel, shape.kernel},
                            init::kaiming_uniform_fan_in());
    Parameter& bias = this->add_parameter(conv + ".bias", {shape.out},
                                          init::uniform(1 / std::sqrt(fan_in)), Decay::no);
    return {
        .weight = &weight,
        .bias = &bias,
        .stride = shape.stride,
        .padding = shape.kernel / 2,
        .norm = {
            .weight = &this->add_parameter(norm + ".weight", {shape.out}, init::ones(), Decay::no),
            .bias = &this->add_parameter(norm + ".bias", {shape.out}, init::zeros(), Decay::no),
            .running_mean = &this->add_buffer(norm + ".running_mean", {shape.out}, 0),
            .running_var = &this->add_buffer(norm + ".running_var", {shape.out}, 1)}};
  }

  // The layers of f, from the block's name: conv1, bn1, conv2, …
  std::vector<ConvNorm> add_residual(const Shape& outer, bool is_bottleneck) {
    std::vector<Shape> shapes;
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
      layers.push_back(add_layer(fmt::format("{}.conv{}", this->name(), i + 1),
                                 fmt::format("{}.bn{}", this->name(), i + 1), shapes[i]));
    }
    return layers;
  }
};

class Stem : public WithLayers<Block> {
 public:
  explicit Stem(const RevNetOptions& options)
      : WithLayers("stem"), width_(options.width), pools_(options.stem == "imagenet") {
    layer_ = add_layer("conv1", "bn1",
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

class ReversibleBlock : public WithLayers<Coupling> {
 public:
  ReversibleBlock(std::string name, int64_t channels, bool is_bottleneck)
      : WithLayers(std::move(name)) {
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
class ReshapingBlock : public WithLayers<Block> {
 public:
  ReshapingBlock(std::string name, const Shape& outer, bool is_bottleneck)
      : WithLayers(std::move(name)) {
    layers_ = add_residual(outer, is_bottleneck);
    const Shape projection{.in = outer.in, .out = outer.out, .kernel = 1, .stride = outer.stride};
    other_ = add_layer(this->name() + ".downsample.0", this->name() + ".downsample.1", projection);
    if (is_bottleneck) {
      own_ =
          add_layer(this->name() + ".downsample_x.0", this->name() + ".downsample_x.1", projection);
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

// Means of both streams, side by side, and a fully connected layer.
class Head : public Block {
 public:
  Head(int64_t channels, int64_t num_classes) : Block("head") {
    const double bound = 1 / std::sqrt(2 * static_cast<double>(channels));
    weight_ = &add_parameter("fc.weight", {num_classes, 2 * channels}, init::uniform(bound));
    bias_ = &add_parameter("fc.bias", {num_classes}, init::uniform(bound), Decay::no);
  }

  Streams forward(const Streams& input, ForwardContext&) override {
    const at::Tensor means = at::cat({input.x.mean({2, 3}), input.other.mean({2, 3})}, 1);
    return {.x = at::linear(means, weight_->tensor, bias_->tensor)};  // [B, num_classes]
  }

 private:
  Parameter* weight_;
  Parameter* bias_;
};

}  // namespace

RevNet::RevNet(RevNetOptions options) : options_(std::move(options)) {
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
        std::move(name), Shape{.in = channels, .out = out, .kernel = 3, .stride = widens ? 1 : 2},
        is_bottleneck));
    channels = out;
  }
  blocks.push_back(std::make_unique<Head>(channels, options_.num_classes));
}

const std::string& RevNet::family() const {
  static const std::string name = "revnet";
  return name;
}

at::Tensor RevNet::example_input(int64_t batch) const {
  return example_images({batch, options_.in_channels, options_.image_size, options_.image_size});
}

at::Tensor RevNet::example_target(int64_t batch) const {
  return at::arange(batch, at::kLong).remainder(options_.num_classes);
}

}  // namespace outstep::nn
