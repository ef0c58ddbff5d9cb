#include "outstep/sync/dpu.h"

namespace outstep::sync {

DpuOptions DpuOptions::read(io::Section& section) {
  return {.overlapped = OverlappedOptions::read(section)};
}

Dpu::Dpu(Parts parts, DpuOptions options)
    : parts_(parts),
      options_(options),
      shard_(parts, "dpu"),
      rounds_(parts.params, parts.group,
              {.name = "dpu",
               .wire = options.overlapped.wire,
               .parameter_wire = options.overlapped.live,
               .on_nonfinite = options.overlapped.on_nonfinite}) {}

const std::string& Dpu::name() const {
  static const std::string kName = "dpu";
  return kName;
}

method::StepReport Dpu::step(method::GradientEngine& engine, const method::StepContext& context) {
  method::StepReport report{.lr = context.lr};
  const int64_t bytes_before = parts_.group.bytes_sent();
  const auto on_nonfinite = options_.overlapped.on_nonfinite;
  shard_.take(parts_.params);
  const auto length = options_.overlapped.length(context.accumulation);
  const bool is_start = !rounds_.pending();
  if (is_start) rounds_.prime(engine, length.at_least);
  const method::BuffersBeforeStep buffers = rounds_.buffers_before_pending();
  report.local = *rounds_.pending();
  if (!is_start) {  // the commit before this one came between
    report.local.staleness_sum += static_cast<double>(report.local.micro_batches);
    report.local.staleness_max = std::max<int64_t>(report.local.staleness_max, 1);
  }
  report.round_micro_batches = {report.local.micro_batches};
  rounds_.run(engine, context, length,
              [this, context, on_nonfinite](const method::Reduced& all) -> at::Tensor {
                num_reduced_ = all.micro_batches;
                judgement_ = method::judge(rounds_.squared_norm(all.gradient, context.step),
                                           all.micro_batches, context, on_nonfinite, all.local);
                return shard_.commit(all.gradient, judgement_, context.lr);
              });
  rounds_.put_back_buffers(buffers, judgement_);
  report.micro_batches_total = num_reduced_;
  report.bytes_sent = parts_.group.bytes_sent() - bytes_before;
  tell(report, rounds_, judgement_);
  return report;
}

void Dpu::pause(const method::StepContext& context) {
  rounds_.settle(context);
  if (options_.overlapped.live != comm::Wire::exact && rounds_.pending()) {
    rounds_.gather(shard_.values());
  }
}

void Dpu::resume() {
  if (rounds_.pending()) round_as_gathered(parts_.params.values(), options_.overlapped.live);
}

void Dpu::save(io::StateWriter& writer) const {
  shard_.save(writer, parts_.params.size());
  rounds_.save(writer);
}

void Dpu::load(io::StateReader& reader) {
  shard_.load(reader, parts_.params.size());
  rounds_.load(reader);
}

}  // namespace outstep::sync
