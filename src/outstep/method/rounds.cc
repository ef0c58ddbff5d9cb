#include "outstep/method/rounds.h"

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/method/traffic.h"

namespace outstep::method {
namespace {

enum : comm::Tag { kCounts, kGradients, kNorm, kParameters };

constexpr int64_t kCountBytes = sizeof(int64_t);
constexpr int64_t kNormBytes = optim::ExactSum::kNumWords * sizeof(int64_t);

}  // namespace

Rounds::Rounds(nn::FlatParams& params, comm::Group& group, Options options)
    : params_(params),
      group_(group),
      options_(std::move(options)),
      shards_(shards_of(params, group)),
      codec_(options_.estimate_format),
      travelling_(at::zeros_like(params.values())),
      encoded_(at::zeros({sends_differences() ? codec_.encoded(shards_).total : 0},
                         params.values().options().dtype(at::kByte))),
      buffers_before_pending_(params, options_.on_nonfinite),
      worker_(std::make_unique<SerialWorker>(options_.name)) {}

optim::Range Rounds::own_range() const {
  return {shards_.begin(group_.rank()), shards_.end(group_.rank())};
}

at::Tensor Rounds::own(const at::Tensor& vector) const {
  return vector.narrow(0, own_range().begin, own_range().size());
}

int64_t Rounds::gather_bytes(bool is_estimate) const {
  if (is_estimate && sends_differences()) {
    return codec_.encoded(shards_).size(group_.rank()) * (shards_.count - 1);
  }
  return all_gather_bytes(shards_, group_.rank(), options_.parameter_wire);
}

Traffic Rounds::traffic(bool gathers_estimate) const {
  const int64_t bytes = small_all_reduce_bytes(kCountBytes + kNormBytes, shards_.count) +
                        reduce_scatter_bytes(shards_, group_.rank(), options_.wire) +
                        gather_bytes(gathers_estimate);
  return {.bytes_sent = bytes, .overlapped_bytes = bytes, .overlap = Overlap::everything};
}

Rounds::Times Rounds::take_times() { return std::exchange(times_, {}); }

void Rounds::send_off(const Contribution& added) {
  travelling_.copy_(params_.gradients());
  params_.zero_gradients();
  pending_ = added;
  is_reduced_ = false;
}

void Rounds::prime(GradientEngine& engine, int64_t count) {
  check(!pending_, "a gradient is primed while none is on its way");
  const AbortOnError abort_on_error(group_);
  buffers_before_pending_ = BuffersBeforeStep(params_, options_.on_nonfinite);
  params_.zero_gradients();
  send_off(accumulate_exactly(engine, count));
}

Contribution Rounds::run(GradientEngine& engine, const StepContext& context, Round round) {
  check(pending_.has_value(), "a round carries a gradient");
  const AbortOnError abort_on_error(group_);
  const RoundLength length = round.length;
  // By value: should this scope be left by an exception, the job goes on until it notices.
  const SerialWorker::Ticket job =
      worker_->post([this, context, round = std::move(round)] { communicate(context, round); });
  const BuffersBeforeStep before(params_, options_.on_nonfinite);
  const Contribution added = accumulate(engine, length, job);
  await(job, context);
  const trace::Span span(context.tracer, trace::Track::compute, "swap", {.step = context.step});
  params_.values().copy_(travelling_);
  params_.mark_changed();
  send_off(added);
  buffers_before_pending_ = before;
  return added;
}

void Rounds::put_back_buffers(const BuffersBeforeStep& before, const Judgement& judgement) {
  if (!judgement.is_skipped) return;
  before.put_back_if_skipped(judgement);
  // What came after the spoilt forward passes has seen what they did.
  buffers_before_pending_ = before;
}

void Rounds::run_alone(const StepContext& context, Round round) {
  check(pending_.has_value(), "a round carries a gradient");
  const AbortOnError abort_on_error(group_);
  await(worker_->post([this, context, round = std::move(round)] { communicate(context, round); }),
        context);
  params_.values().copy_(travelling_);
  params_.mark_changed();
  pending_.reset();
}

Contribution Rounds::accumulate(GradientEngine& engine, const RoundLength& length,
                                SerialWorker::Ticket round) {
  check(length.at_least > 0, "a round adds a micro-batch at least");
  Contribution added;
  const auto wants_more = [&] {
    if (added.micro_batches < length.at_least) return true;
    if (length.is_fixed) return false;
    if (length.at_most > 0 && added.micro_batches >= length.at_most) return false;
    return !worker_->is_done(round);
  };
  while (wants_more()) {
    added += engine.accumulate();
    worker_->rethrow_error();
  }
  const int64_t most = length.is_fixed ? length.at_least : length.at_most;
  if (most > 0 && added.micro_batches > most) throw finished_too_many(added.micro_batches, most);
  return added;
}

void Rounds::await(SerialWorker::Ticket job, const StepContext& context) {
  const trace::Span span(context.tracer, trace::Track::compute, "wait", {.step = context.step});
  const Clock::time_point begin = Clock::now();
  worker_->wait(job);
  times_.idle_seconds += seconds_since(begin);
}

void Rounds::settle(const StepContext& context) {
  if (!pending_ || is_reduced_) return;
  const AbortOnError abort_on_error(group_);
  worker_->wait(worker_->post([this, context] { reduce(context); }));
}

void Rounds::gather(const at::Tensor& shard) {
  const AbortOnError abort_on_error(group_);
  worker_->wait(worker_->post([this, shard] {
    group_.all_gather(shard, params_.values(), shards_,
                      {.tag = kParameters, .what = "committed parameters"});
  }));
}

// ---- On the communication thread ----

void Rounds::reduce(const StepContext& context) {
  at::Tensor count = at::full({1}, pending_->micro_batches, at::kLong);
  {
    const trace::Span span(context.tracer, trace::Track::communication, "counts",
                           {.step = context.step});
    group_.all_reduce(count, {.tag = kCounts, .what = "counts", .step = context.step});
  }
  const trace::Span span(
      context.tracer, trace::Track::communication, "reduce_scatter",
      {.step = context.step, .bytes = reduce_scatter_bytes(shards_, group_.rank(), options_.wire)});
  group_.reduce_scatter(travelling_, own(travelling_), shards_,
                        {.tag = kGradients, .what = "gradients", .step = context.step},
                        options_.wire);
  reduced_micro_batches_ = count.item<int64_t>();
  is_reduced_ = true;
}

optim::ExactSum Rounds::squared_norm(const at::Tensor& shard, const StepContext& context) {
  const trace::Span span(context.tracer, trace::Track::communication, "norm",
                         {.step = context.step});
  at::Tensor words = optim::squared_norm(shard).to_words();
  group_.all_reduce(words, {.tag = kNorm, .what = "gradient norm", .step = context.step});
  return optim::ExactSum::from_words(words);
}

void Rounds::communicate(const StepContext& context, const Round& round) {
  const Clock::time_point begin = Clock::now();
  const trace::Span span(context.tracer, trace::Track::communication, round.name,
                         {.step = context.step});
  if (!is_reduced_) reduce(context);
  at::Tensor shard;
  {
    const trace::Span update(context.tracer, trace::Track::communication, "update",
                             {.step = context.step});
    shard = round.policy({.gradient = own(travelling_),
                          .micro_batches = reduced_micro_batches_,
                          .local = *pending_});
  }
  bring(shard, round.gathers_estimate, context);
  times_.communication_seconds += seconds_since(begin);
}

// Leaves in travelling_ what goes live next.
void Rounds::bring(const at::Tensor& shard, bool is_estimate, const StepContext& context) {
  const trace::Span span(context.tracer, trace::Track::communication, "all_gather",
                         {.step = context.step, .bytes = gather_bytes(is_estimate)});
  if (is_estimate && sends_differences()) return bring_difference(shard, context);
  group_.all_gather(shard, travelling_, shards_,
                    {.tag = kParameters, .what = "parameters", .step = context.step},
                    options_.parameter_wire);
}

// To the live parameters, which the calling thread meanwhile only reads.
void Rounds::bring_difference(const at::Tensor& shard, const StepContext& context) {
  const comm::Shards encoded = codec_.encoded(shards_);
  const at::Tensor mine =
      encoded_.narrow(0, encoded.begin(group_.rank()), encoded.size(group_.rank()));
  codec_.encode(shard, own(params_.values()), mine);
  group_.all_gather(mine, encoded_, encoded,
                    {.tag = kParameters, .what = "estimated parameters", .step = context.step});
  codec_.decode(encoded_, params_.values(), travelling_);
  if (options_.parameter_wire == comm::Wire::bf16) {
    travelling_.copy_(travelling_.to(at::kBFloat16));
  }
}

// ---- State ----

void Rounds::save(io::StateWriter& writer) const {
  writer.shared(options_.name + ".has_pending", pending_ ? 1 : 0);
  if (!pending_) return;
  check(is_reduced_, "a pending gradient is settled before it is saved");
  writer.shared(options_.name + ".pending_micro_batches", reduced_micro_batches_);
  writer.slice(options_.name + ".pending", own(travelling_), own_range().begin, shards_.total);
  if (buffers_before_pending_.copy().defined()) {
    writer.local(options_.name + ".buffers_before_pending", buffers_before_pending_.copy());
  }
  writer.local(options_.name + ".pending_part", at::tensor(pending_->to_values(), at::kDouble));
}

void Rounds::load(io::StateReader& reader) {
  pending_.reset();
  // A run of another method has nothing of this one's.
  const std::string has_pending = options_.name + ".has_pending";
  if (!reader.has_shared(has_pending) || reader.shared_int(has_pending) == 0) return;
  reduced_micro_batches_ = reader.shared_int(options_.name + ".pending_micro_batches");
  reader.slice(options_.name + ".pending", own(travelling_), own_range().begin, shards_.total);
  // Another world goes on with the gradient, but has nobody whose losses these were.
  pending_ = Contribution{};
  if (reader.has_local()) {
    const at::Tensor part = reader.local(options_.name + ".pending_part");
    pending_ = Contribution::from_values(
        {part.const_data_ptr<double>(), static_cast<size_t>(part.numel())});
  }
  is_reduced_ = true;
  buffers_before_pending_ = BuffersBeforeStep(params_, options_.on_nonfinite);
  if (reader.has_local() && buffers_before_pending_.copy().defined()) {
    buffers_before_pending_.copy().copy_(reader.local(options_.name + ".buffers_before_pending"));
  }
}

}  // namespace outstep::method
