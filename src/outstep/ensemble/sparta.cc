#include "outstep/ensemble/sparta.h"

#include <cmath>

#include "outstep/base/clock.h"
#include "outstep/comm/average.h"
#include "outstep/ensemble/plan.h"
#include "outstep/method/traffic.h"

namespace outstep::ensemble {
namespace {

constexpr comm::Tag kMean = 1;

}  // namespace

SpartaOptions SpartaOptions::read(io::Section& section) {
  SpartaOptions options;
  options.p = section.number("p", options.p, {.min = 0, .max = 1});
  options.timing = Timing::read(section, options.timing);
  return options;
}

Sparta::Sparta(const Parts& parts, SpartaOptions options)
    : parts_(parts),
      options_(options),
      layers_(layers_of(parts.model, parts.params)),
      probabilities_(static_cast<size_t>(count_layers(parts.model)), options.p) {}

const std::string& Sparta::name() const {
  static const std::string kName = "sparta";
  return kName;
}

bool Sparta::is_due(const method::MixContext& context) const {
  return parts_.group.size() > 1 && options_.p > 0 && options_.timing.is_due(context.step);
}

method::MixReport Sparta::after_step(const method::MixContext& context,
                                     std::span<optim::State* const> /*states*/) {
  const trace::Span span(context.tracer, trace::Track::compute, "sparta", {.step = context.step});
  const at::NoGradGuard no_grad;
  const Plan plan = make_plan(layers_, probabilities_, {.seed = parts_.seed, .step = context.step});
  const at::Tensor& values = parts_.params.values();
  const at::Tensor positions =
      at::tensor(at::IntArrayRef(plan.positions), at::kLong).to(values.device());
  const at::Tensor mean = values.index_select(0, positions);
  const int64_t bytes_before = parts_.group.bytes_sent();
  const Clock::time_point begin = Clock::now();
  comm::average(parts_.group, mean,
                {.tag = kMean, .what = "mean of members", .step = context.step});
  const double seconds = seconds_since(begin);
  values.index_copy_(0, positions, mean);
  return {.bytes_sent = parts_.group.bytes_sent() - bytes_before,
          .num_mixed = plan.size(),
          .communication_seconds = seconds,
          .idle_seconds = seconds};
}

double Sparta::planned_bytes_per_step() const {
  if (parts_.group.size() == 1) return 0;
  int64_t size = 0;
  for (const Layer& layer : layers_) size += layer.size();
  const auto taken = std::llround(options_.p * static_cast<double>(size));
  return static_cast<double>(method::all_reduce_bytes(taken, parts_.group.rank(),
                                                      parts_.group.size(), comm::Wire::exact)) /
         static_cast<double>(options_.timing.interval);
}

}  // namespace outstep::ensemble
