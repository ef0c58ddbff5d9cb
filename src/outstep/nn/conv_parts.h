#pragma once

#include <cmath>
#include <string>

#include "outstep/nn/batch_norm.h"
#include "outstep/nn/block.h"

// What convolutional networks are made of. Included by their sources only.
//
// B images, C channels, h × w pixels

namespace outstep::nn {

struct ConvShape {
  int64_t in;
  int64_t out;
  int64_t kernel;
  int64_t stride = 1;
};

// A convolution, and the batch norm behind it. Padding keeps the size at stride 1.
struct ConvNorm {
  Parameter* weight;  // [out, in, kernel, kernel]
  Parameter* bias;    // [out]; null: none
  int64_t stride;
  int64_t padding;
  BatchNorm norm;

  at::Tensor convolve(const at::Tensor& x) const {
    return at::conv2d(x, weight->tensor, bias ? bias->tensor : at::Tensor(), stride, padding);
  }
  at::Tensor apply(const at::Tensor& x, const ForwardContext& context) const {
    return batch_norm(convolve(x), norm, context);
  }
  at::Tensor apply_relu(const at::Tensor& x, const ForwardContext& context) const {
    return batch_norm_relu(convolve(x), norm, context);
  }
};

// A block that owns such layers; Base is PlainBlock, Block or Coupling.
template <typename Base>
class ConvParts : public Base {
 protected:
  using Base::Base;

  // As torchvision's ResNet has them: no bias, weights normal by fan-out. gain: of the norm.
  ConvNorm add_conv_norm(const std::string& conv, const std::string& norm, const ConvShape& shape,
                         double gain = 1) {
    return add(conv, norm, shape, init::kaiming_normal_fan_out(), nullptr, gain);
  }

  // As torch's Conv2d starts, bias included.
  ConvNorm add_biased_conv_norm(const std::string& conv, const std::string& norm,
                                const ConvShape& shape) {
    const auto fan_in = static_cast<double>(shape.in * shape.kernel * shape.kernel);
    return add(conv, norm, shape, init::kaiming_uniform_fan_in(),
               init::uniform(1 / std::sqrt(fan_in)), 1);
  }

 private:
  ConvNorm add(const std::string& conv, const std::string& norm, const ConvShape& shape,
               Init weight, Init bias, double gain) {
    return {
        .weight = &this->add_parameter(conv + ".weight",
                                       {shape.out, shape.in, shape.kernel, shape.kernel}, weight),
        .bias = bias ? &this->add_parameter(conv + ".bias", {shape.out}, bias, Decay::no) : nullptr,
        .stride = shape.stride,
        .padding = shape.kernel / 2,
        .norm = {
            .weight = &this->add_parameter(norm + ".weight", {shape.out}, init::constant(gain),
                                           Decay::no),
            .bias = &this->add_parameter(norm + ".bias", {shape.out}, init::zeros(), Decay::no),
            .running_mean = &this->add_buffer(norm + ".running_mean", {shape.out}, 0),
            .running_var = &this->add_buffer(norm + ".running_var", {shape.out}, 1)}};
  }
};

// The mean over the image of each channel, of two streams side by side, and a fully connected layer
// that starts as torch's. [B, C, h, w] -> [B, num_classes]
class MeanHead : public Block {
 public:
  // layer: the parameters' name; channels: of all streams.
  MeanHead(const std::string& layer, int64_t channels, int64_t num_classes) : Block("head") {
    const double bound = 1 / std::sqrt(static_cast<double>(channels));
    weight_ = &add_parameter(layer + ".weight", {num_classes, channels}, init::uniform(bound));
    bias_ = &add_parameter(layer + ".bias", {num_classes}, init::uniform(bound), Decay::no);
  }

  Streams forward(const Streams& input, ForwardContext&) override {
    at::Tensor means = input.x.mean({2, 3});
    if (input.are_two()) means = at::cat({means, input.other.mean({2, 3})}, 1);
    return {.x = at::linear(means, weight_->tensor, bias_->tensor)};
  }

 private:
  Parameter* weight_;
  Parameter* bias_;
};

}  // namespace outstep::nn
