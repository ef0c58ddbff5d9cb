#include "outstep/nn/resnet.h"

#include <array>
#include <optional>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/nn/conv_parts.h"

// B images, C channels, H × W pixels

namespace outstep::nn {
namespace {

constexpr std::array<int64_t, 4> kStageFactors = {1, 2, 4, 8};

class Stem : public ConvParts<PlainBlock> {
 public:
  explicit Stem(const ResNetOptions& options)
      : ConvParts("stem"), pools_(options.stem == "imagenet") {
    conv_ = add_conv_norm("conv1", "bn1",
                          {.in = options.in_channels,
                           .out = options.width,
                           .kernel = pools_ ? 7 : 3,
                           .stride = pools_ ? 2 : 1});
  }

  at::Tensor transform(const at::Tensor& images, ForwardContext& context) override {
    const at::Tensor x = conv_.apply_relu(images, context);
    return pools_ ? at::max_pool2d(x, 3, 2, 1) : x;
  }

 private:
  bool pools_;
  ConvNorm conv_;
};

// relu(branch(x) + shortcut(x)). The branch is two 3×3 convolutions, or 1×1, 3×3, 1×1 (a
// bottleneck, which has its stride at the 3×3 as torchvision does); the shortcut is x itself, or a
// 1×1 convolution where the shape changes.
class Residual : public ConvParts<PlainBlock> {
 public:
  struct Options {
    int64_t in;
    int64_t out;
    int64_t stride;
    bool is_bottleneck;
    bool zero_init;
  };

  Residual(std::string name, const Options& options) : ConvParts(std::move(name)) {
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
      x = branch_[i].apply_relu(x, context);
    }
    const ConvNorm& last = branch_.back();
    const at::Tensor residual = shortcut_ ? shortcut_->apply(input, context) : input;
    return batch_norm_add_relu(last.convolve(x), residual, last.norm, context);
  }

 private:
  void add_to_branch(const ConvShape& shape, double gain = 1) {
    const size_t number = branch_.size() + 1;
    branch_.push_back(add_conv_norm(fmt::format("{}.conv{}", name(), number),
                                    fmt::format("{}.bn{}", name(), number), shape, gain));
  }

  std::vector<ConvNorm> branch_;
  std::optional<ConvNorm> shortcut_;
};

std::array<int, 4> blocks_per_stage(int depth) {
  if (depth == 18) return {2, 2, 2, 2};
  check(depth == 34 || depth == 50, "a ResNet of a known depth");
  return {3, 4, 6, 3};
}

}  // namespace

ResNet::ResNet(ResNetOptions options) : ImageModel(std::move(options)) {
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
  blocks.push_back(std::make_unique<MeanHead>("fc", channels, options_.num_classes));
}

const std::string& ResNet::family() const {
  static const std::string name = "resnet";
  return name;
}

}  // namespace outstep::nn
