#include "outstep/nn/model.h"

#include <set>

#include "outstep/nn/kernels/cross_entropy.h"

namespace outstep::nn {
namespace {

LossValue cross_entropy(const at::Tensor& logits, const at::Tensor& targets, double smoothing) {
  const at::Tensor rows = logits.flatten(0, -2).contiguous();  // [N, K]
  if (targets.is_floating_point()) {
    return {kernels::soft_cross_entropy(rows, targets, smoothing), targets.size(0)};
  }
  return {kernels::cross_entropy(rows, targets.flatten(), smoothing), targets.numel()};
}

}  // namespace

LossValue Model::loss(const at::Tensor& logits, const at::Tensor& targets) const {
  return cross_entropy(logits, targets, label_smoothing);
}

LossValue Model::plain_loss(const at::Tensor& logits, const at::Tensor& targets) const {
  return cross_entropy(logits, targets, 0);
}

at::Tensor Model::forward(const at::Tensor& input, ForwardContext& context) const {
  Streams streams{.x = input};
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (context.before_block) (*context.before_block)(i);
    streams = blocks[i]->forward(streams, context);
  }
  return streams.x;
}

int64_t Model::num_parameters() const {
  std::set<const Parameter*> counted;
  int64_t total = 0;
  for (const auto& block : blocks) {
    for (const Parameter* parameter : block->parameters()) {
      if (counted.insert(parameter).second) total += c10::multiply_integers(parameter->shape);
    }
  }
  return total;
}

int64_t count_correct(const at::Tensor& logits, const at::Tensor& targets) {
  const at::NoGradGuard no_grad;
  return logits.detach().argmax(-1).eq(targets).sum().item<int64_t>();
}

}  // namespace outstep::nn
