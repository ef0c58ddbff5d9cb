#include "outstep/sync/none.h"

#include "outstep/base/errors.h"

namespace outstep::sync {

NoneOptions NoneOptions::read(io::Section& section) {
  return {.on_nonfinite = method::read_on_nonfinite(section)};
}

None::None(Parts parts, NoneOptions options)
    : parts_(parts),
      options_(options),
      state_(
          parts.optimizer.make_state({0, parts.params.size()}, parts.params.values().options())) {
  if (parts.group.size() > 1) {
    throw ConfigError(
        "sync \"none\" trains one replica, mesh.replicas is {}; set sync.name to \"ddp\" or "
        "\"zero1\", or mesh.replicas to 1",
        parts.group.size());
  }
}

const std::string& None::name() const {
  static const std::string kName = "none";
  return kName;
}

method::StepReport None::step(method::GradientEngine& engine, const method::StepContext& context) {
  method::StepReport report{.lr = context.lr};
  const method::BuffersBeforeStep buffers(parts_.params, options_.on_nonfinite);
  parts_.params.zero_gradients();
  report.local = method::accumulate_exactly(engine, context.accumulation);
  report.micro_batches_total = report.local.micro_batches;
  const auto judgement =
      method::judge(optim::squared_norm(parts_.params.gradients()), report.micro_batches_total,
                    context, options_.on_nonfinite, report.local);
  report.grad_norm = judgement.norm;
  report.is_skipped = judgement.is_skipped;
  buffers.put_back_if_skipped(judgement);
  method::apply(parts_.optimizer, parts_.params, state_, judgement, report.lr, context);
  return report;
}

void None::save(io::StateWriter& writer) const { state_.save(writer, parts_.params.size()); }
void None::load(io::StateReader& reader) { state_.load(reader, parts_.params.size()); }

}  // namespace outstep::sync
