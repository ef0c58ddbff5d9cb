#include "outstep/sync/zero1.h"

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/method/traffic.h"

namespace outstep::sync {
namespace {

enum : comm::Tag { kGradients, kNorm, kParameters };

constexpr int64_t kNormBytes = optim::ExactSum::kNumWords * sizeof(int64_t);

}  // namespace

Zero1Options Zero1Options::read(io::Section& section) {
  return {.wire = method::read_wire(section), .on_nonfinite = method::read_on_nonfinite(section)};
}

Zero1::Zero1(Parts parts, Zero1Options options)
    : parts_(parts), options_(options), shards_(method::shards_of(parts.params, parts.group)) {
  if (!parts.optimizer.cuts_anywhere()) {
    throw ConfigError(
        "sync \"zero1\" shards the optimizer at any element, but optimizer \"{}\" can only be cut "
        "at tensor borders; use sync \"ddp\"",
        parts.optimizer.name());
  }
  const int rank = parts.group.rank();
  state_ = parts.optimizer.make_state({shards_.begin(rank), shards_.end(rank)},
                                      parts.params.values().device());
}

const std::string& Zero1::name() const {
  static const std::string kName = "zero1";
  return kName;
}

method::Traffic Zero1::planned_traffic() const {
  const int rank = parts_.group.rank();
  return {.bytes_sent = method::reduce_scatter_bytes(shards_, rank, options_.wire) +
                        method::small_all_reduce_bytes(kNormBytes, shards_.count) +
                        method::all_gather_bytes(shards_, rank, comm::Wire::exact)};
}

method::StepReport Zero1::step(method::GradientEngine& engine, const method::StepContext& context) {
  method::StepReport report{.lr = context.lr};
  const int64_t bytes_before = parts_.group.bytes_sent();
  const method::BuffersBeforeStep buffers(parts_.params, options_.on_nonfinite);
  parts_.params.zero_gradients();
  {
    const method::AbortOnError abort_on_error(parts_.group);
    report.local = method::accumulate_exactly(engine, context.accumulation);
  }
  report.micro_batches_total = report.local.micro_batches * shards_.count;

  const auto communicate = [&](const char* what, int64_t num_bytes, const auto& call) {
    const trace::Span span(context.tracer, trace::Track::communication, what,
                           {.step = context.step, .bytes = num_bytes});
    const Clock::time_point begin = Clock::now();
    call();
    report.communication_seconds += seconds_since(begin);
  };
  const auto own = [&](const at::Tensor& vector) {
    return vector.narrow(0, state_.range.begin, state_.range.size());
  };
  const at::Tensor& gradients = parts_.params.gradients();
  const at::Tensor& values = parts_.params.values();
  const int rank = parts_.group.rank();

  communicate("reduce_scatter", method::reduce_scatter_bytes(shards_, rank, options_.wire), [&] {
    parts_.group.reduce_scatter(gradients, own(gradients), shards_,
                                {.tag = kGradients, .what = "gradients", .step = context.step},
                                options_.wire);
  });
  at::Tensor norm_words = optim::squared_norm(own(gradients)).to_words();
  communicate("all_reduce", method::small_all_reduce_bytes(kNormBytes, shards_.count), [&] {
    parts_.group.all_reduce(norm_words,
                            {.tag = kNorm, .what = "gradient norm", .step = context.step});
  });
  const auto judgement =
      method::judge(optim::ExactSum::from_words(norm_words), report.micro_batches_total, context,
                    options_.on_nonfinite, report.local);
  report.grad_norm = judgement.norm;
  report.is_skipped = judgement.is_skipped;
  buffers.put_back_if_skipped(judgement);
  method::apply(parts_.optimizer, parts_.params, state_, judgement, report.lr, context);
  if (!judgement.is_skipped) {
    communicate("all_gather", method::all_gather_bytes(shards_, rank, comm::Wire::exact), [&] {
      parts_.group.all_gather(own(values), values, shards_,
                              {.tag = kParameters, .what = "parameters", .step = context.step});
    });
  }
  report.exposed_seconds = report.communication_seconds;
  report.bytes_sent = parts_.group.bytes_sent() - bytes_before;
  return report;
}

void Zero1::save(io::StateWriter& writer) const { state_.save(writer, parts_.params.size()); }
void Zero1::load(io::StateReader& reader) { state_.load(reader, parts_.params.size()); }

}  // namespace outstep::sync
