#include "outstep/sync/overlapped.h"

#include <fmt/format.h>

#include "outstep/base/errors.h"
#include "outstep/base/log.h"
#include "outstep/method/traffic.h"

namespace outstep::sync {

OverlappedOptions OverlappedOptions::read(io::Section& section) {
  OverlappedOptions options;
  options.has_fixed_counts =
      section.text("counts", "dynamic", {.choices = {"dynamic", "fixed"}}) == "fixed";
  options.k_min = section.integer("k_min", options.k_min, {.min = 1});
  options.k_max = section.integer("k_max", options.k_max, {.min = 0});
  options.wire = method::read_wire(section);
  options.live = section.text("live", "fp32", {.choices = {"fp32", "bf16"}}) == "bf16"
                     ? comm::Wire::bf16
                     : comm::Wire::exact;
  options.on_nonfinite = method::read_on_nonfinite(section);
  options.replay = section.text("replay", "");
  if (options.k_max > 0 && options.k_max < options.k_min) {
    throw ConfigError("{}: sync.k_max is {}, below sync.k_min = {}; 0 is no bound",
                      section.origin("k_max"), options.k_max, options.k_min);
  }
  const char* bound = options.k_max > 0 ? "k_max" : options.k_min > 1 ? "k_min" : nullptr;
  if (options.has_fixed_counts && bound) {
    throw ConfigError(
        "{}: sync.{} bounds dynamic counts; with sync.counts = \"fixed\" it is "
        "train.accumulation that says how many micro-batches a step has",
        section.origin(bound), bound);
  }
  if (options.has_fixed_counts && !options.replay.empty()) {
    throw ConfigError(
        "{}: sync.replay repeats a run with dynamic counts; with sync.counts = \"fixed\" every run "
        "of a recipe is the same",
        section.origin("replay"));
  }
  return options;
}

void OverlappedOptions::read_record(int rank, int num_ranks, size_t num_rounds) {
  if (replay.empty()) return;
  const std::filesystem::path first = replay;
  const auto metrics = [&](int of_rank) {
    return first.parent_path() / fmt::format("rank-{}.jsonl", of_rank);
  };
  if (first.filename() != metrics(0).filename()) {
    throw ConfigError(
        "sync.replay is \"{}\"; it takes rank 0's metrics, RUN/metrics/rank-0.jsonl, and each rank "
        "reads its own beside it",
        replay);
  }
  std::error_code ignored;
  if (std::filesystem::exists(metrics(num_ranks), ignored)) {
    throw DataError("{} is there: the run that sync.replay names had more than {} ranks",
                    metrics(num_ranks).string(), num_ranks);
  }
  recorded = RecordedCounts::read(metrics(rank), num_rounds);
}

method::RoundLength OverlappedOptions::length(int64_t count, int64_t step, size_t round) const {
  if (has_fixed_counts) return {.at_least = count, .is_fixed = true};
  if (const auto again = recorded.at(step, round)) return {.at_least = *again, .is_fixed = true};
  return {.at_least = k_min, .at_most = k_max};
}

Shard::Shard(const Parts& parts, const std::string& sync) : optimizer_(parts.optimizer) {
  method::require_cuts_anywhere(parts.optimizer, sync);
  const comm::Shards shards = method::shards_of(parts.params, parts.group);
  const int rank = parts.group.rank();
  state_ = parts.optimizer.make_state({shards.begin(rank), shards.end(rank)},
                                      parts.params.values().device());
  values_ = at::empty({state_.range.size()}, parts.params.values().options());
}

void Shard::take(const nn::FlatParams& params) {
  if (is_known_) return;
  values_.copy_(params.values().narrow(0, state_.range.begin, state_.range.size()));
  is_known_ = true;
}

void Shard::adopt(const nn::FlatParams& params, const at::Tensor* predicted) {
  const at::Tensor live = params.values().narrow(0, state_.range.begin, state_.range.size());
  if (predicted) predicted->add_(live - values_);
  values_.copy_(live);
}

const at::Tensor& Shard::commit(const at::Tensor& gradient, const method::Judgement& judgement,
                                double lr) {
  if (judgement.is_skipped) return values_;
  optimizer_.update({.gradient = gradient,
                     .gradient_scale = judgement.scale,
                     .lr = lr,
                     .params_in = values_,
                     .params_out = values_,
                     .state_in = &state_,
                     .state_out = &state_});
  return values_;
}

void Shard::estimate(const at::Tensor& gradient, const method::Judgement& judgement, double lr,
                     const at::Tensor& out) const {
  if (judgement.is_skipped) {
    out.copy_(values_);
    return;
  }
  optimizer_.update({.gradient = gradient,
                     .gradient_scale = judgement.scale,
                     .lr = lr,
                     .params_in = values_,
                     .params_out = out,
                     .state_in = &state_,
                     .state_out = nullptr});
}

int64_t Shard::num_bytes() const {
  return state_.num_bytes() + static_cast<int64_t>(values_.nbytes());
}

void Shard::load(io::StateReader& reader, int64_t total) {
  state_.load(reader, total);
  is_known_ = false;
}

Overlapped::Overlapped(const Parts& parts, std::string name, const OverlappedOptions& options,
                       method::DifferenceFormat estimate_format)
    : parts_(parts),
      options_(options),
      shard_(parts, name),
      name_(std::move(name)),
      bytes_told_(parts.group.bytes_sent()),
      rounds_(parts.params, parts.group,
              {.name = name_,
               .wire = options.wire,
               .parameter_wire = options.live,
               .estimate_format = estimate_format,
               .on_nonfinite = options.on_nonfinite}) {}

method::StepReport Overlapped::step(method::GradientEngine& engine,
                                    const method::StepContext& context) {
  shard_.take(parts_.params);  // before what is live may be another
  resume();                    // after load
  if (!options_.recorded.is_empty() && context.step == options_.recorded.num_steps() &&
      parts_.group.rank() == 0) {
    log::warn("sync.replay: {} ends after {} steps; from here on counts are this run's own",
              options_.replay, context.step);
  }
  method::StepReport report{.lr = context.lr};
  run_rounds(engine, context, report);
  has_gathered_ = true;
  report.micro_batches_total = num_committed_;
  report.grad_norm = judgement_.norm;
  report.is_skipped = judgement_.is_skipped;
  const auto times = rounds_.take_times();
  report.communication_seconds = times.communication_seconds;
  report.idle_seconds = times.idle_seconds;
  const int64_t bytes_sent = parts_.group.bytes_sent();
  report.bytes_sent = bytes_sent - std::exchange(bytes_told_, bytes_sent);
  return report;
}

method::Judgement Overlapped::judge(const at::Tensor& gradient, int64_t count,
                                    const method::StepContext& context,
                                    const method::Contribution& local) {
  return method::judge(rounds_.squared_norm(gradient, context), count, context,
                       options_.on_nonfinite, local);
}

void Overlapped::count_as_stale(method::Contribution& contribution) {
  contribution.staleness_sum += static_cast<double>(contribution.micro_batches);
  contribution.staleness_max = std::max<int64_t>(contribution.staleness_max, 1);
}

bool Overlapped::is_live_exact() const {
  return !has_gathered_ || (options_.live == comm::Wire::exact && prediction() == nullptr);
}

void Overlapped::make_live_exact() {
  if (is_paused_ || is_live_exact()) return;
  rounds_.gather(shard_.values());
  is_paused_ = true;
}

void Overlapped::pause(const method::StepContext& context) {
  rounds_.settle(context);
  make_live_exact();
}

// The pending gradient stays as it is, to travel in the next round.
void Overlapped::begin_mixing(const method::StepContext& /*context*/) { make_live_exact(); }

void Overlapped::end_mixing() {
  shard_.adopt(parts_.params, prediction());
  resume();
}

void Overlapped::resume() {
  if (!is_paused_) return;
  is_paused_ = false;
  const at::Tensor live = parts_.params.values();
  if (const at::Tensor* predicted = prediction()) rounds_.gather(*predicted);
  if (options_.live == comm::Wire::bf16) live.copy_(live.to(at::kBFloat16));
}

void Overlapped::save(io::StateWriter& writer) const {
  const int64_t total = parts_.params.size();
  shard_.save(writer, total);
  rounds_.save(writer);
  writer.shared(name_ + ".has_gathered", has_gathered_ ? 1 : 0);
  const at::Tensor* predicted = prediction();
  if (has_gathered_ && predicted) {
    writer.slice(name_ + ".predicted", *predicted, rounds_.own_range().begin, total);
  }
}

// What is loaded is as a pause left it. A run of another method has nothing of this one's.
void Overlapped::load(io::StateReader& reader) {
  const int64_t total = parts_.params.size();
  shard_.load(reader, total);
  rounds_.load(reader);
  const std::string has_gathered = name_ + ".has_gathered";
  has_gathered_ = reader.has_shared(has_gathered) && reader.shared_int(has_gathered) != 0;
  if (const at::Tensor* predicted = prediction(); has_gathered_ && predicted) {
    reader.slice(name_ + ".predicted", *predicted, rounds_.own_range().begin, total);
  }
  is_paused_ = !is_live_exact();
}

}  // namespace outstep::sync
