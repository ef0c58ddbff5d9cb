#include "outstep/apps/run_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "outstep/apps/places.h"
#include "outstep/base/text.h"

namespace outstep::apps {
namespace {

const char* shape_name(optim::Schedule::Shape shape) {
  switch (shape) {
    case optim::Schedule::Shape::constant:
      return "constant";
    case optim::Schedule::Shape::cosine:
      return "cosine";
    case optim::Schedule::Shape::step:
      return "step";
    case optim::Schedule::Shape::wsd:
      return "wsd";
  }
  return "";
}

std::string traffic_text(const method::Synchronizer& sync) {
  const int64_t sent = sync.planned_traffic().bytes_sent;
  return sent > 0 ? fmt::format("sends {} a step", human_bytes(sent)) : "sends nothing";
}

// "validation loss 1.71 nats/byte (2.47 bits)" or "validation loss 0.52, accuracy 82.1 %"
std::string result_text(const train::Assembly& assembly, const train::Summary& summary) {
  if (!summary.validation_loss) {
    return summary.train_loss ? fmt::format("train loss {:.4g}", *summary.train_loss)
                              : "nothing was left to train";
  }
  std::string text = fmt::format("validation loss {:.4g}", *summary.validation_loss);
  if (assembly.data.unit == "tokens") {
    const bool is_bytes = assembly.data.tokenizer && assembly.data.tokenizer->vocab_size() == 256;
    text += fmt::format(" nats/{} ({:.3g} bits)", is_bytes ? "byte" : "token",
                        *summary.validation_loss / std::log(2.0));
  }
  if (summary.accuracy) text += fmt::format(", accuracy {:.2f} %", 100 * *summary.accuracy);
  return text;
}

std::string next_command(const train::Assembly& assembly, const train::Summary& summary) {
  const std::string run = summary.run.string();
  if (!summary.finished) return fmt::format("{} resume {}", program_as_typed(), run);
  if (assembly.data.tokenizer) {
    return fmt::format("{} sample {} --prompt \"ROMEO:\"", program_as_typed(), run);
  }
  return fmt::format("{} inspect {}", program_as_typed(), run);
}

}  // namespace

std::string start_text(train::Recipe& recipe, const train::Assembly& assembly) {
  const nn::FlatParams& params = *assembly.params;
  const optim::Schedule& schedule = assembly.schedule;
  const int64_t state_bytes = 2 * params.values().numel() * 4 + assembly.sync->optimizer_bytes() +
                              assembly.sync->communication_bytes();
  io::Section engine = recipe.settings.section("engine");
  io::Section ensemble = recipe.settings.section("ensemble");
  std::string text = fmt::format(
      "{}  {} parameters · {} · {} · {} {} each\n", assembly.model->family(),
      with_commas(assembly.model->num_parameters()), engine.text("precision", "fp32"),
      assembly.mesh.describe(), assembly.threads, assembly.threads == 1 ? "thread" : "threads");
  text += fmt::format(
      "engine {} (micro-batch {}) · sync {} · ensemble {} · optimizer {} (lr {:g}, {})\n",
      engine.text("name", "backprop"), assembly.stream->options().micro_batch,
      assembly.sync->name(), ensemble.text("name", "none"), assembly.optimizer->name(), schedule.lr,
      shape_name(schedule.shape));
  if (assembly.mesh.stages > 1) {
    text += fmt::format("stages {} blocks; this one has {} parameters\n",
                        fmt::join(assembly.cut, " + "), with_commas(params.num_parameters()));
  }
  text +=
      fmt::format("data   {} · {}\n", assembly.data.train->describe(), assembly.data.path.string());
  text += fmt::format("per rank: {} parameters, gradients, optimizer and buffers · {}",
                      human_bytes(state_bytes), traffic_text(*assembly.sync));
  return text;
}

// Commits may be larger than the recipe's steps.
std::string steps_text(const train::Summary& summary) {
  const auto progress = static_cast<int64_t>(summary.progress);
  if (progress == summary.steps) return with_commas(summary.steps) + " steps";
  return fmt::format("{} steps in {} commits", with_commas(progress), with_commas(summary.steps));
}

std::string end_text(const train::Assembly& assembly, const train::Summary& summary) {
  std::string text = fmt::format("{} after {}, {} ({} {}/s)\n", result_text(assembly, summary),
                                 steps_text(summary), human_seconds(summary.train_seconds),
                                 with_commas(std::llround(summary.units_per_second)), summary.unit);
  text += fmt::format("memory {} of tensors at most", human_bytes(summary.peak_memory_bytes));
  if (summary.bytes_sent > 0) {
    text += fmt::format(" · sent {} · {:.0f} % of it behind computing",
                        human_bytes(summary.bytes_sent), 100 * summary.overlap_fraction);
  }
  const std::string run = summary.run.string();
  text += fmt::format("\nrun    {}    tensorboard --logdir {}\nnext   {}", run, run,
                      next_command(assembly, summary));
  return text;
}

}  // namespace outstep::apps
