#include "outstep/nn/resnet.h"

#include <cmath>

#include "outstep/base/errors.h"
#include "outstep/nn/batch_norm.h"
#include "outstep/nn/images.h"

// B images, C channels, H × W pixels

namespace outstep::nn {
namespace {

constexpr std::array<int64_t, 4> kStageFactors = {1, 2, 4, 8};

struct Shape {
  int64_t in;
  int64_t out;
  int64_t kernel;
  int64_t stride = 1;
};

// A convolution without bias, and the batch norm behind it. Padding keeps the size at stride 1.
struct ConvNorm {
  Parameter* weight;  // [out, in, kernel, kernel]
  int64_t stride;
  int64_t padding;
  BatchNorm norm;

  at::Tensor convolve(const at::Tensor& x) const {
    return at::conv2d(x, weight->tensor, {}, stride, padding);
  }
};

class ResNetPart : public PlainBlock {
 protected:
  using PlainBlock::PlainBlock;

  ConvNorm add_conv_norm(const std::string& conv, const std::string& norm, const Shape& shape,
                         double gain = 1) {
    Parameter& weight =
        add_parameter(conv + ".weight", {shape.out, shape.in, shape.kernel, shape.kernel},
                      init::kaiming_normal_fan_out());
    return {
        &weight,
        shape.stride,
        shape.kernel / 2,
        {.weight = &add_parameter(norm + ".weight", {shape.out}, init::constant(gain), Decay::no),
         .bias = &add_parameter(norm + ".bias", {shape.out}, init::zeros(), Decay::no),
         .running_mean = &add_buffer(norm + ".running_mean", {shape.out}, 0),
         .running_var = &add_buffer(norm + ".running_var", {shape.out}, 1)}};
  }
};

class Stem : public ResNetPart {
 public:
  explicit Stem(const ResNetOptions& options)
      : ResNetPart("stem"), pools_(options.stem == "imagenet") {
    conv_ = add_conv_norm("conv1", "bn1",
                          {.in = options.in_channels,
                           .out = options.width,
                           .kernel = pools_ ? 7 : 3,
                           .stride = pools_ ? 2 : 1});
  }

  at::Tensor transform(const at::Tensor& images, ForwardContext& context) override {
    const at::Tensor x = batch_norm_relu(conv_.convolve(images), conv_.norm, context);
    return pools_ ? at::max_pool2d(x, 3, 2, 1) : x;
  }

 private:
  bool pools_;
  ConvNorm conv_;
};

// relu(branch(x) + shortcut(x)). The branch is two 3×3 convolutions, or 1×1, 3×3, 1×1 (a
// bottleneck, which has its stride at the 3×3 as torchvision does); the shortcut is x itself, or a
// 1×1 convolution where the shape changes.
class Residual : public ResNetPart {
 public:
  struct Options {
    int64_t in;
    int64_t out;
    int64_t stride;
    bool is_bottleneck;
    bool zero_init;
  };

  Residual(std::string name, const Options& options) : ResNetPart(std::move(name)) {
    const int64_t out = options.out, stride = options.stride;
    const double last_gain = options.zero_init ? 0 : 1;
    if (options.is_bottleneck) {
      const int64_t inner = out / 4;
      add_to_branch({.in = options.in, .out = inner, .kernel = 1});
      add_to_branch({.in = inner, .out = inner, .kernel = 3, .stride = stride});
      add_to_branch({.in = inner, .out = out, .kernel = 1}, last_gain);
    } else {
      add_to_branch({.in = options.in, .out = out, .kernel = 3, .stride = stride});
      add_to_branch({.in = out, .out = out, .kernel = 3}, last_gain);
    }
    if (stride != 1 || options.in != out) {
      shortcut_ = add_conv_norm(this->name() + ".downsample.0", this->name() + ".downsample.1",
                                {.in = options.in, .out = out, .kernel = 1, .stride = stride});
    }
  }

  at::Tensor transform(const at::Tensor& input, ForwardContext& context) override {
    at::Tensor x = input;
    for (size_t i = 0; i + 1 < branch_.size(); ++i) {
      x = batch_norm_relu(branch_[i].convolve(x), branch_[i].norm, context);
    }
    const ConvNorm& last = branch_.back();
    const at::Tensor residual =
        shortcut_ ? batch_norm(shortcut_->convolve(input), shortcut_->norm, context) : input;
    return batch_norm_add_relu(last.convolve(x), residual, last.norm, context);
  }

 private:
  void add_to_branch(const Shape& shape, double gain = 1) {
    const size_t number = branch_.size() + 1;
    branch_.push_back(add_conv_norm(fmt::format("{}.conv{}", name(), number),
                                    fmt::format("{}.bn{}", name(), number), shape, gain));
  }

  std::vector<ConvNorm> branch_;
  std::optional<ConvNorm> shortcut_;
};

class Head : public ResNetPart {
 public:
  Head(int64_t channels, int64_t num_classes) : ResNetPart("head") {
    const double bound = 1 / std::sqrt(static_cast<double>(channels));
    weight_ = &add_parameter("fc.weight", {num_classes, channels}, init::uniform(bound));
    bias_ = &add_parameter("fc.bias", {num_classes}, init::uniform(bound), Decay::no);
  }

  at::Tensor transform(const at::Tensor& x, ForwardContext&) override {
    return at::linear(x.mean({2, 3}), weight_->tensor, bias_->tensor);  // [B, num_classes]
  }

 private:
  Parameter* weight_;
  Parameter* bias_;
};

std::array<int, 4> blocks_per_stage(int depth) {
  if (depth == 18) return {2, 2, 2, 2};
  check(depth == 34 || depth == 50, "a ResNet of a known depth");
  return {3, 4, 6, 3};
}

}  // namespace

ResNet::ResNet(ResNetOptions options) : options_(std::move(options)) {
  const bool is_bottleneck = options_.depth == 50;
  const int64_t expansion = is_bottleneck ? 4 : 1;
  const std::array<int, 4> counts = blocks_per_stage(options_.depth);
  blocks.push_back(std::make_unique<Stem>(options_));
  int64_t channels = options_.width;
  for (size_t stage = 0; stage < counts.size(); ++stage) {
    const int64_t out = options_.width * kStageFactors[stage] * expansion;
    for (int i = 0; i < counts[stage]; ++i) {
      blocks.push_back(
          std::make_unique<Residual>(fmt::format("layer{}.{}", stage + 1, i),
                                     Residual::Options{.in = channels,
                                                       .out = out,
                                                       .stride = stage > 0 && i == 0 ? 2 : 1,
                                                       .is_bottleneck = is_bottleneck,
                                                       .zero_init = options_.zero_init_residual}));
      channels = out;
    }
  }
  blocks.push_back(std::make_unique<Head>(channels, options_.num_classes));
}

const std::string& ResNet::family() const {
  static const std::string name = "resnet";
  return name;
}

at::Tensor ResNet::example_input(int64_t batch) const {
  return example_images({batch, options_.in_channels, options_.image_size, options_.image_size});
}

at::Tensor ResNet::example_target(int64_t batch) const {
  return at::arange(batch, at::kLong).remainder(options_.num_classes);
}

}  // namespace outstep::nn
