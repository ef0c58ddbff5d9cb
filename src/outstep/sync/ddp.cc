#include "outstep/sync/ddp.h"

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/method/traffic.h"

namespace outstep::sync {
namespace {

constexpr comm::Tag kGradients = 0;  // one tag will do: buckets travel in the same order everywhere

int64_t bucket_traffic(const optim::Range& bucket, const comm::Group& group, comm::Wire wire) {
  return method::all_reduce_bytes(bucket.size(), group.rank(), group.size(), wire);
}

}  // namespace

DdpOptions DdpOptions::read(io::Section& section) {
  return {.buckets = method::BucketOptions::read(section),
          .wire = method::read_wire(section),
          .on_nonfinite = method::read_on_nonfinite(section)};
}

Ddp::Ddp(Parts parts, DdpOptions options)
    : parts_(parts),
      options_(options),
      state_(parts.optimizer.make_state({0, parts.params.size()}, parts.params.values().options())),
      progress_(method::plan_buckets(parts.params, options.buckets)) {
  if (parts.group.size() > 1) worker_ = std::make_unique<SerialWorker>("ddp");
}

const std::string& Ddp::name() const {
  static const std::string kName = "ddp";
  return kName;
}

method::Traffic Ddp::planned_traffic() const {
  method::Traffic traffic;
  for (const optim::Range& bucket : buckets()) {
    traffic.bytes_sent += bucket_traffic(bucket, parts_.group, options_.wire);
  }
  // The last bucket is complete only when backward is.
  traffic.overlapped_bytes = traffic.bytes_sent;
  traffic.overlap = method::Overlap::backward;
  if (!buckets().empty()) {
    traffic.overlapped_bytes -= bucket_traffic(buckets().back(), parts_.group, options_.wire);
  }
  return traffic;
}

// On the worker's thread. The bucket is final: nobody else touches it until the step has waited.
void Ddp::reduce(const optim::Range& bucket, int64_t step, trace::Tracer* tracer) {
  const trace::Span span(
      tracer, trace::Track::communication, "all_reduce",
      {.step = step, .bytes = bucket_traffic(bucket, parts_.group, options_.wire)});
  const Clock::time_point begin = Clock::now();
  parts_.group.all_reduce(parts_.params.gradients().narrow(0, bucket.begin, bucket.size()),
                          {.tag = kGradients, .what = "gradients", .step = step}, options_.wire);
  communication_seconds_ += seconds_since(begin);
}

void Ddp::launch_complete(int64_t step, trace::Tracer* tracer) {
  for (int64_t i = progress_.next_complete(); i >= 0; i = progress_.next_complete()) {
    const optim::Range bucket = buckets()[static_cast<size_t>(i)];
    worker_->post([this, bucket, step, tracer] { reduce(bucket, step, tracer); });
  }
}

method::Contribution Ddp::accumulate_and_reduce(method::GradientEngine& engine,
                                                const method::StepContext& context) {
  progress_.restart();
  const auto on_ready = [&](int64_t begin, int64_t end) {
    progress_.mark(begin, end);
    launch_complete(context.step, context.tracer);
  };
  const method::RangeAnnouncements announcements(engine);
  bool is_announcing = false;
  const method::Contribution local = method::accumulate_exactly(engine, context.accumulation, [&] {
    engine.on_range_ready(on_ready);
    is_announcing = true;
  });
  // An engine that finishes several micro-batches at once never has "the last one": all is reduced
  // now.
  if (!is_announcing) on_ready(0, parts_.params.size());
  check(progress_.all_launched(), "the engine announces all of the flat gradient");
  return local;
}

method::StepReport Ddp::step(method::GradientEngine& engine, const method::StepContext& context) {
  method::StepReport report{.lr = context.lr};
  const int64_t bytes_before = parts_.group.bytes_sent();
  const method::BuffersBeforeStep buffers(parts_.params, options_.on_nonfinite);
  parts_.params.zero_gradients();
  if (worker_) {
    const method::AbortOnError abort_on_error(parts_.group);
    communication_seconds_ = 0;
    report.local = accumulate_and_reduce(engine, context);
    const trace::Span span(context.tracer, trace::Track::compute, "wait", {.step = context.step});
    const Clock::time_point begin = Clock::now();
    worker_->wait_all();
    report.idle_seconds = seconds_since(begin);
    report.communication_seconds = communication_seconds_;
  } else {
    report.local = method::accumulate_exactly(engine, context.accumulation);
  }
  report.micro_batches_total = report.local.micro_batches * parts_.group.size();
  const auto judgement =
      method::judge(optim::squared_norm(parts_.params.gradients()), report.micro_batches_total,
                    context, options_.on_nonfinite, report.local);
  report.grad_norm = judgement.norm;
  report.is_skipped = judgement.is_skipped;
  buffers.put_back_if_skipped(judgement);
  method::apply(parts_.optimizer, parts_.params, state_, judgement, report.lr, context);
  report.bytes_sent = parts_.group.bytes_sent() - bytes_before;
  return report;
}

void Ddp::save(io::StateWriter& writer) const {
  const comm::Shards shares{.total = parts_.params.size(), .count = parts_.group.size()};
  const int rank = parts_.group.rank();
  state_.part({shares.begin(rank), shares.end(rank)}).save(writer, parts_.params.size());
}

void Ddp::load(io::StateReader& reader) { state_.load(reader, parts_.params.size()); }

}  // namespace outstep::sync
