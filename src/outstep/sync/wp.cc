#include "outstep/sync/wp.h"

namespace outstep::sync {

WpOptions WpOptions::read(io::Section& section) {
  return {.overlapped = OverlappedOptions::read(section)};
}

Wp::Wp(Parts parts, WpOptions options)
    : parts_(parts),
      options_(options),
      shard_(parts, "wp"),
      predicted_(at::empty_like(shard_.values())),
      rounds_(parts.params, parts.group,
              {.name = "wp",
               .wire = options.overlapped.wire,
               .parameter_wire = options.overlapped.live,
               .on_nonfinite = options.overlapped.on_nonfinite}) {}

const std::string& Wp::name() const {
  static const std::string kName = "wp";
  return kName;
}

int64_t Wp::communication_bytes() const {
  return rounds_.communication_bytes() + static_cast<int64_t>(predicted_.nbytes());
}

method::StepReport Wp::step(method::GradientEngine& engine, const method::StepContext& context) {
  method::StepReport report{.lr = context.lr};
  const int64_t bytes_before = parts_.group.bytes_sent();
  resume();  // after load
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
  rounds_.run(engine, context, length, [this, context](const method::Reduced& all) {
    return commit_and_predict(all, context);
  });
  rounds_.put_back_buffers(buffers, judgement_);
  report.micro_batches_total = num_reduced_;
  report.bytes_sent = parts_.group.bytes_sent() - bytes_before;
  tell(report, rounds_, judgement_);
  return report;
}

at::Tensor Wp::commit_and_predict(const method::Reduced& all, const method::StepContext& context) {
  num_reduced_ = all.micro_batches;
  judgement_ = method::judge(rounds_.squared_norm(all.gradient, context.step), all.micro_batches,
                             context, options_.overlapped.on_nonfinite, all.local);
  shard_.commit(all.gradient, judgement_, context.lr);
  shard_.estimate(all.gradient, judgement_, context.lr, predicted_);
  return predicted_;
}

void Wp::pause(const method::StepContext& context) {
  if (!rounds_.pending() || is_paused_) return;
  rounds_.settle(context);
  rounds_.gather(shard_.values());
  is_paused_ = true;
}

void Wp::resume() {
  if (!is_paused_) return;
  shard_.take(parts_.params);
  rounds_.gather(predicted_);
  round_as_gathered(parts_.params.values(), options_.overlapped.live);
  is_paused_ = false;
}

void Wp::save(io::StateWriter& writer) const {
  shard_.save(writer, parts_.params.size());
  rounds_.save(writer);
  if (rounds_.pending()) {
    writer.slice("wp.predicted", predicted_, rounds_.own_range().begin, parts_.params.size());
  }
}

void Wp::load(io::StateReader& reader) {
  shard_.load(reader, parts_.params.size());
  rounds_.load(reader);
  is_paused_ = rounds_.pending().has_value();  // what is loaded is as pause left it
  if (is_paused_) {
    reader.slice("wp.predicted", predicted_, rounds_.own_range().begin, parts_.params.size());
  }
}

}  // namespace outstep::sync
