#include "outstep/ensemble/averaging.h"

#include <algorithm>
#include <numeric>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/rng.h"
#include "outstep/comm/average.h"
#include "outstep/method/traffic.h"

namespace outstep::ensemble {
namespace {

constexpr comm::Tag kMean = 1, kModels = 2;
constexpr int64_t kPieceElements = 1 << 20;

Timing usual_timing(const std::string& method) {
  if (method == "papa") return {.interval = 10};
  if (method == "dart") return {.interval = 600};
  if (method == "noloco") return {.interval = 50};
  return {.interval = 1000};
}

CounterRng rng_of(const char* method, uint64_t seed, int64_t step) {
  return CounterRng(
      {.seed = seed, .purpose = purpose(method), .stream = static_cast<uint64_t>(step)});
}

std::vector<optim::Range> frozen_ranges(const nn::FlatParams& params) {
  std::vector<optim::Range> ranges;
  for (size_t i = 0; i < params.entries().size(); ++i) {
    const nn::FlatParams::Entry& entry = params.entries()[i];
    if (params.parameters()[i]->tensor.requires_grad()) continue;
    ranges.push_back({entry.offset, entry.offset + entry.numel});
  }
  return ranges;
}

}  // namespace

AveragingOptions AveragingOptions::read(io::Section& section, const std::string& method) {
  AveragingOptions options{.timing = Timing::read(section, usual_timing(method))};
  if (method == "papa") options.alpha = section.number("alpha", 0.99, {.min = 0, .max = 1});
  return options;
}

Partners draw_pairs(uint64_t seed, int64_t step, int num_members) {
  CounterRng rng = rng_of("ensemble.papa_2", seed, step);
  const auto count = static_cast<uint64_t>(num_members);
  Partners partners;
  for (int n = 0; n < num_members; ++n) {
    const uint64_t first = rng.below(count);
    const uint64_t second = (first + 1 + rng.below(count - 1)) % count;
    partners.emplace_back(static_cast<int>(first), static_cast<int>(second));
  }
  return partners;
}

Partners draw_matching(uint64_t seed, int64_t step, int num_members) {
  CounterRng rng = rng_of("ensemble.noloco", seed, step);
  std::vector<int> order(static_cast<size_t>(num_members));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  Partners partners;
  for (int n = 0; n < num_members; ++n) partners.emplace_back(n, n);
  for (size_t i = 0; i + 1 < order.size(); i += 2) {
    partners[static_cast<size_t>(order[i])].second = order[i + 1];
    partners[static_cast<size_t>(order[i + 1])].second = order[i];
  }
  return partners;
}

Averaging::Averaging(const Parts& parts, std::string method, AveragingOptions options)
    : parts_(parts),
      method_(std::move(method)),
      options_(options),
      frozen_(frozen_ranges(parts.params)) {}

bool Averaging::is_due(const method::MixContext& context) const {
  return parts_.group.size() > 1 && options_.timing.is_due(context.step);
}

method::MixReport Averaging::after_step(const method::MixContext& context,
                                        std::span<optim::State* const> /*states*/) {
  const trace::Span span(context.tracer, trace::Track::compute, "average", {.step = context.step});
  const at::NoGradGuard no_grad;
  const int64_t bytes_before = parts_.group.bytes_sent();
  // Frozen parameters travel with the others, which keeps a mixing one piece, and are put back.
  std::vector<at::Tensor> frozen;
  for (const optim::Range& range : frozen_) frozen.push_back(values_in(range).clone());
  const Clock::time_point begin = Clock::now();
  mix(context);
  for (size_t i = 0; i < frozen_.size(); ++i) values_in(frozen_[i]).copy_(frozen[i]);
  const double seconds = seconds_since(begin);
  int64_t num_mixed = parts_.params.num_parameters();
  for (const optim::Range& range : frozen_) num_mixed -= range.size();
  return {.bytes_sent = parts_.group.bytes_sent() - bytes_before,
          .num_mixed = num_mixed,
          .communication_seconds = seconds,
          .idle_seconds = seconds};
}

void Averaging::mix(const method::MixContext& context) {
  const int num_members = parts_.group.size();
  if (method_ == "papa_2") {
    average_by_two(draw_pairs(parts_.seed, context.step, num_members), context);
  } else if (method_ == "noloco") {
    average_by_two(draw_matching(parts_.seed, context.step, num_members), context);
  } else {
    pull_to_mean(method_ == "papa" ? (1 - options_.alpha) * context.lr_share : 1, context);
  }
}

at::Tensor Averaging::values_in(const optim::Range& range) const {
  return parts_.params.values().narrow(0, range.begin, range.size());
}

void Averaging::pull_to_mean(double strength, const method::MixContext& context) {
  const at::Tensor& values = parts_.params.values();
  const at::Tensor mean = values.clone();
  comm::average(parts_.group, mean,
                {.tag = kMean, .what = "mean of members", .step = context.step});
  if (strength >= 1) {
    values.copy_(mean);
  } else {
    values.mul_(1 - strength).add_(mean, strength);
  }
}

// Models travel from member to member piece by piece, which bounds both memory and the silence
// between two messages; of each piece a copy goes to as many as want it.
void Averaging::average_by_two(const Partners& partners, const method::MixContext& context) {
  comm::Group& group = parts_.group;
  const int own = group.rank();
  const auto [first, second] = partners[static_cast<size_t>(own)];
  // How many copies of another's model a member takes.
  const auto copies = [&](int to, int from) {
    const auto& [one, other] = partners[static_cast<size_t>(to)];
    return to != from && (one == from || other == from) ? 1 : 0;
  };
  for (const at::Tensor& piece : parts_.params.values().split(kPieceElements)) {
    comm::Splits splits;
    int64_t num_sent = 0, num_received = 0;  // copies
    for (int n = 0; n < group.size(); ++n) {
      splits.sent.push_back(copies(n, own) * piece.numel());
      splits.received.push_back(copies(own, n) * piece.numel());
      num_sent += copies(n, own);
      num_received += copies(own, n);
    }
    const at::Tensor received = at::empty({num_received * piece.numel()}, piece.options());
    group.all_to_all(piece.repeat({num_sent}), received, splits,
                     {.tag = kModels, .what = "a member", .step = context.step});
    if (first == second) continue;  // goes on alone
    const std::vector<at::Tensor> theirs = received.split_with_sizes(splits.received);
    const auto model = [&](int member) {
      return member == own ? piece : theirs[static_cast<size_t>(member)];
    };
    // A sum of two has the same bits in either order: both of a pair get the same.
    piece.copy_(model(first).add(model(second)).mul_(0.5));
  }
}

double Averaging::planned_bytes_per_step() const {
  const nn::FlatParams& params = parts_.params;
  const int num_members = parts_.group.size();
  double bytes = 0;
  if (num_members > 1 && is_by_two()) {
    const auto model = static_cast<double>(params.values().nbytes());
    const double matched = num_members - num_members % 2;
    // A child's two parents are others but for a share of 1 / N each.
    bytes = model * (method_ == "papa_2" ? 2 * (1 - 1.0 / num_members) : matched / num_members);
  } else if (num_members > 1) {
    bytes = static_cast<double>(method::all_reduce_bytes(params.size(), parts_.group.rank(),
                                                         num_members, comm::Wire::exact));
  }
  return bytes / static_cast<double>(options_.timing.interval);
}

}  // namespace outstep::ensemble
