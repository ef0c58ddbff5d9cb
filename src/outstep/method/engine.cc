#include "outstep/method/engine.h"

#include <algorithm>

#include "outstep/base/errors.h"

namespace outstep::method {

Contribution& Contribution::operator+=(const Contribution& other) {
  micro_batches += other.micro_batches;
  samples += other.samples;
  units += other.units;
  loss_sum += other.loss_sum;
  num_losses += other.num_losses;
  staleness_sum += other.staleness_sum;
  staleness_max = std::max(staleness_max, other.staleness_max);
  return *this;
}

std::vector<double> Contribution::to_values() const {
  const auto number = [](int64_t count) { return static_cast<double>(count); };
  return {number(micro_batches), number(samples), number(units),        loss_sum,
          number(num_losses),    staleness_sum,   number(staleness_max)};
}

Contribution Contribution::from_values(std::span<const double> values) {
  check(std::ssize(values) == kNumValues, "a contribution is as many values as were written");
  const auto count = [&](size_t i) { return static_cast<int64_t>(values[i]); };
  return {.micro_batches = count(0),
          .samples = count(1),
          .units = count(2),
          .loss_sum = values[3],
          .num_losses = count(4),
          .staleness_sum = values[5],
          .staleness_max = count(6)};
}

Evaluation score(const nn::Model& model, const at::Tensor& logits, const at::Tensor& targets) {
  const nn::LossValue value = model.plain_loss(logits, targets);
  return {.loss_sum = value.loss.item<double>() * static_cast<double>(value.num_units),
          .units = value.num_units,
          .correct = nn::count_correct(logits, targets)};
}

Evaluation GradientEngine::evaluate(const data::Batch& batch) {
  const at::Tensor logits = predict(batch, {});
  return logits.defined() ? score(logits, batch) : Evaluation{};
}

}  // namespace outstep::method
