#include "outstep/sync/zero1.h"

#include <utility>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/method/traffic.h"

namespace outstep::sync {
namespace {

enum : comm::Tag { kGradients, kNorm, kParameters };

constexpr int64_t kNormBytes = optim::ExactSum::kNumWords * sizeof(int64_t);

// Buckets begin at multiples of the norm's grain, so that the norm has the bits of an uncut vector.
std::vector<optim::Range> ranges_of_buckets(const nn::FlatParams& params,
                                            const Zero1Options& options) {
  if (!options.overlap) return {{0, params.size()}};
  std::vector<optim::Range> ranges;
  int64_t end = params.size();
  for (const optim::Range& bucket : method::plan_buckets(params, options.buckets)) {
    const int64_t begin =
        (bucket.begin + optim::kNormGrain - 1) / optim::kNormGrain * optim::kNormGrain;
    if (begin >= end) continue;
    ranges.push_back({begin, end});
    end = begin;
  }
  return ranges;
}

at::Tensor part(const at::Tensor& vector, const optim::Range& range) {
  return vector.narrow(0, range.begin, range.size());
}

}  // namespace

Zero1Options Zero1Options::read(io::Section& section) {
  Zero1Options options{.wire = method::read_wire(section),
                       .on_nonfinite = method::read_on_nonfinite(section),
                       .overlap = section.flag("overlap", false)};
  if (options.overlap) options.buckets = method::BucketOptions::read(section);
  return options;
}

Zero1::Zero1(Parts parts, Zero1Options options)
    : parts_(parts),
      options_(options),
      progress_(ranges_of_buckets(parts.params, options)),
      bytes_told_(parts.group.bytes_sent()) {
  method::require_cuts_anywhere(parts.optimizer, name());
  const int rank = parts.group.rank();
  for (const optim::Range& range : progress_.buckets()) {
    const comm::Shards shards = method::shards_of(range.size(), parts.group);
    const optim::Range own{range.begin + shards.begin(rank), range.begin + shards.end(rank)};
    buckets_.push_back({.range = range,
                        .shards = shards,
                        .state = parts.optimizer.make_state(own, parts.params.values().device())});
  }
  if (options.overlap && parts.group.size() > 1) worker_ = std::make_unique<SerialWorker>("zero1");
}

// Parameters still on their way are nobody's any more here, but a peer may be waiting for them:
// jobs that were dropped would let it wait until its deadline. Each job has one too.
Zero1::~Zero1() {
  if (!worker_) return;
  try {
    worker_->wait_all();
  } catch (...) {
    // Whoever might want to know has gone.
  }
}

const std::string& Zero1::name() const {
  static const std::string kName = "zero1";
  return kName;
}

std::vector<optim::State*> Zero1::optimizer_states() {
  std::vector<optim::State*> states;
  for (Bucket& bucket : buckets_) states.push_back(&bucket.state);
  return states;
}

int64_t Zero1::optimizer_bytes() const {
  int64_t bytes = 0;
  for (const Bucket& bucket : buckets_) bytes += bucket.state.num_bytes();
  return bytes;
}

int64_t Zero1::gather_bytes() const {
  int64_t bytes = 0;
  for (const Bucket& bucket : buckets_) {
    bytes += method::all_gather_bytes(bucket.shards, parts_.group.rank(), comm::Wire::exact);
  }
  return bytes;
}

method::Traffic Zero1::planned_traffic() const {
  const int rank = parts_.group.rank();
  method::Traffic traffic;
  int64_t last = 0;  // complete only when backward is
  for (const Bucket& bucket : buckets_) {
    last = method::reduce_scatter_bytes(bucket.shards, rank, options_.wire);
    traffic.bytes_sent += last;
  }
  traffic.bytes_sent += gather_bytes();
  if (options_.overlap) {
    traffic.overlapped_bytes = traffic.bytes_sent - last;
    traffic.overlap = method::Overlap::backward_and_forward;
  }
  traffic.bytes_sent += method::small_all_reduce_bytes(kNormBytes, parts_.group.size());
  return traffic;
}

// On the worker's thread, or here and now if there is none.
SerialWorker::Ticket Zero1::send(const method::StepContext& context,
                                 const std::function<void()>& job) {
  const auto timed = [this, job] {
    const Clock::time_point begin = Clock::now();
    job();
    communication_seconds_ += seconds_since(begin);
  };
  if (worker_) return worker_->post(timed);
  await(context, timed);
  return 0;
}

void Zero1::await(const method::StepContext& context, const std::function<void()>& until) {
  const trace::Span span(context.tracer, trace::Track::compute, "wait", {.step = context.step});
  const Clock::time_point begin = Clock::now();
  until();
  idle_seconds_ += seconds_since(begin);
}

void Zero1::reduce(const Bucket& bucket, const method::StepContext& context) {
  const trace::Span span(
      context.tracer, trace::Track::communication, "reduce_scatter",
      {.step = context.step,
       .bytes = method::reduce_scatter_bytes(bucket.shards, parts_.group.rank(), options_.wire)});
  const at::Tensor& gradients = parts_.params.gradients();
  parts_.group.reduce_scatter(
      part(gradients, bucket.range), part(gradients, bucket.state.range), bucket.shards,
      {.tag = kGradients, .what = "gradients", .step = context.step}, options_.wire);
}

void Zero1::gather(const Bucket& bucket, const method::StepContext& context) {
  const trace::Span span(
      context.tracer, trace::Track::communication, "all_gather",
      {.step = context.step,
       .bytes = method::all_gather_bytes(bucket.shards, parts_.group.rank(), comm::Wire::exact)});
  const at::Tensor& values = parts_.params.values();
  parts_.group.all_gather(part(values, bucket.state.range), part(values, bucket.range),
                          bucket.shards,
                          {.tag = kParameters, .what = "parameters", .step = context.step});
}

void Zero1::launch_complete(const method::StepContext& context) {
  for (int64_t i = progress_.next_complete(); i >= 0; i = progress_.next_complete()) {
    const Bucket& bucket = buckets_[static_cast<size_t>(i)];
    send(context, [this, &bucket, context] { reduce(bucket, context); });
  }
}

// Leaves the sum over replicas in the own shards of the gradient.
method::Contribution Zero1::accumulate(method::GradientEngine& engine,
                                       const method::StepContext& context) {
  progress_.restart();
  const auto on_ready = [&](int64_t begin, int64_t end) {
    progress_.mark(begin, end);
    launch_complete(context);
  };
  const auto on_needed = [&](int64_t begin, int64_t end) {
    for (Bucket& bucket : buckets_) {
      if (bucket.range.end <= begin || end <= bucket.range.begin) continue;
      bucket.is_needed = true;
      if (worker_->is_done(bucket.gathering)) continue;
      await(context, [&] { worker_->wait(bucket.gathering); });
    }
  };
  const method::RangeAnnouncements announcements(engine);
  bool is_announcing = false;
  if (worker_) engine.on_range_needed(on_needed);
  const method::Contribution local = method::accumulate_exactly(engine, context.accumulation, [&] {
    if (!worker_) return;
    engine.on_range_ready(on_ready);
    is_announcing = true;
  });
  // All at once without overlap; also from an engine that finishes several micro-batches at once
  // and so never has "the last one".
  if (!is_announcing) on_ready(0, parts_.params.size());
  check(progress_.all_launched(), "the engine announces all of the flat gradient");
  for (Bucket& bucket : buckets_) {
    check(!worker_ || std::exchange(bucket.is_needed, false),
          "the engine announces all parameters that it reads");
  }
  if (worker_) await(context, [&] { worker_->wait_all(); });
  return local;
}

method::Judgement Zero1::reduce_norm(const method::StepContext& context,
                                     const method::StepReport& report) {
  optim::ExactSum squared_norm;
  for (const Bucket& bucket : buckets_) {
    squared_norm.add(optim::squared_norm(part(parts_.params.gradients(), bucket.state.range)));
  }
  at::Tensor words = squared_norm.to_words();
  await(context, [&] {
    const trace::Span span(context.tracer, trace::Track::communication, "norm",
                           {.step = context.step});
    const Clock::time_point begin = Clock::now();
    parts_.group.all_reduce(words, {.tag = kNorm, .what = "gradient norm", .step = context.step});
    communication_seconds_ += seconds_since(begin);
  });
  return method::judge(optim::ExactSum::from_words(words), report.micro_batches_total, context,
                       options_.on_nonfinite, report.local);
}

// The bucket that the next forward pass reads first goes first.
void Zero1::update(const method::Judgement& judgement, const method::StepContext& context) {
  if (judgement.is_skipped) return;
  for (auto bucket = buckets_.rbegin(); bucket != buckets_.rend(); ++bucket) {
    method::apply(parts_.optimizer, parts_.params, bucket->state, judgement, context.lr, context);
    bucket->gathering =
        send(context, [this, &bucket = *bucket, context] { gather(bucket, context); });
  }
}

method::StepReport Zero1::step(method::GradientEngine& engine, const method::StepContext& context) {
  method::StepReport report{.lr = context.lr};
  const method::AbortOnError abort_on_error(parts_.group);
  const method::BuffersBeforeStep buffers(parts_.params, options_.on_nonfinite);
  parts_.params.zero_gradients();
  report.local = accumulate(engine, context);
  report.micro_batches_total = report.local.micro_batches * parts_.group.size();
  const auto judgement = reduce_norm(context, report);
  report.grad_norm = judgement.norm;
  report.is_skipped = judgement.is_skipped;
  buffers.put_back_if_skipped(judgement);
  // What is about to be sent is counted now, as with overlap it is on its way beyond this step.
  const int64_t bytes_sent =
      parts_.group.bytes_sent() + (judgement.is_skipped ? 0 : gather_bytes());
  report.bytes_sent = bytes_sent - std::exchange(bytes_told_, bytes_sent);
  update(judgement, context);
  report.communication_seconds = communication_seconds_.exchange(0);
  report.idle_seconds = std::exchange(idle_seconds_, 0);
  return report;
}

void Zero1::pause(const method::StepContext& context) {
  if (!worker_) return;
  const method::AbortOnError abort_on_error(parts_.group);
  await(context, [&] { worker_->wait_all(); });
}

void Zero1::save(io::StateWriter& writer) const {
  std::vector<const optim::State*> states;
  for (const Bucket& bucket : buckets_) states.push_back(&bucket.state);
  optim::State::save_parts(states, writer, parts_.params.size());
}

void Zero1::load(io::StateReader& reader) {
  for (Bucket& bucket : buckets_) bucket.state.load(reader, parts_.params.size());
}

}  // namespace outstep::sync
