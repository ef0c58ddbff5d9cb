#include "outstep/apps/run_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "outstep/apps/places.h"
#include "outstep/apps/table.h"
#include "outstep/base/text.h"
#include "outstep/engine/pipeline/mode.h"
#include "outstep/train/evaluation.h"
#include "outstep/train/regularize.h"

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

// To other replicas and members.
int64_t bytes_of_a_step(const train::Assembly& assembly) {
  int64_t sent = assembly.sync->planned_traffic().bytes_sent;
  if (assembly.mixer) sent += std::llround(assembly.mixer->planned_bytes_per_step());
  return sent;
}

std::string traffic_text(const train::Assembly& assembly) {
  const int64_t sent = bytes_of_a_step(assembly);
  const bool has_stages = assembly.mesh.stages > 1;
  if (sent == 0) return has_stages ? "sends activations" : "sends nothing";
  return fmt::format("sends {} a step{}", human_bytes(sent), has_stages ? " and activations" : "");
}

// How the model is cut, and whether a mode that rebuilds inputs has anything to rebuild.
std::string stages_text(const train::Assembly& assembly, const std::string& engine) {
  if (!assembly.stage_group) return "";
  std::string text;
  if (assembly.mesh.stages > 1) {
    text =
        fmt::format("stages {} blocks; this one has {} parameters\n",
                    fmt::join(assembly.cut, " + "), with_commas(assembly.params->num_parameters()));
  }
  if (engine::pipeline_mode(engine).buffering.keep != engine::Keep::nothing) return text;
  const auto& blocks = assembly.model->blocks;
  if (std::ranges::any_of(blocks, [](const auto& block) { return block->is_reversible(); })) {
    return text;
  }
  return text + fmt::format(
                    "none of the model's {} blocks is reversible: engine {} keeps the input of "
                    "each; RevNet, RevGPT and RevViT are what it is for\n",
                    blocks.size(), engine);
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

// What the members are worth alone, together and as one model.
std::string population_text(const train::Population& population) {
  if (population.ensemble.units == 0) return "";
  Table table{.header = {"", "validation loss"}, .rows = {}};
  if (population.has_classes) table.header.emplace_back("accuracy");
  const auto row = [&](const std::string& what, const std::string& loss,
                       const std::string& accuracy) {
    table.rows.push_back({what, loss});
    if (population.has_classes) table.rows.back().push_back(accuracy);
  };
  const auto one = [&](const std::string& what, const method::Evaluation& evaluation) {
    row(what, fmt::format("{:.4f}", evaluation.loss()),
        fmt::format("{:.2f} %", 100 * evaluation.accuracy()));
  };
  // A member that has diverged is the worst.
  const auto loss_of = [](const method::Evaluation& evaluation) {
    return std::isnan(evaluation.loss()) ? INFINITY : evaluation.loss();
  };
  const auto [lowest_loss, highest_loss] = std::ranges::minmax(population.members, {}, loss_of);
  const auto [lowest, highest] =
      std::ranges::minmax(population.members, {}, &method::Evaluation::accuracy);
  const std::string count = std::to_string(population.members.size());
  row(count + " members, mean", fmt::format("{:.4f}", train::mean_loss(population.members)),
      fmt::format("{:.2f} %", 100 * train::mean_accuracy(population.members)));
  row("  worst, best", fmt::format("{:.4f}, {:.4f}", highest_loss.loss(), lowest_loss.loss()),
      fmt::format("{:.2f}, {:.2f} %", 100 * lowest.accuracy(), 100 * highest.accuracy()));
  one("ensemble of their logits", population.ensemble);
  one("average of their weights", population.average);
  one(fmt::format("greedy soup of {}", fmt::join(population.greedy_members, ", ")),
      population.greedy);
  const auto [nearest, farthest] =
      std::ranges::minmax(population.pairs, {}, &train::Pair::distance);
  const std::string apart =
      population.pairs.size() == 1
          ? fmt::format("{:.3g}", nearest.distance)
          : fmt::format("{:.3g} to {:.3g}", nearest.distance, farthest.distance);
  std::string text = fmt::format(
      "{}members are {:.3g} of the average's norm away from the average; the distance "
      "between two is {}\n",
      table.text(), population.relative_distance, apart);
  const auto barrier_of = [](const train::Pair& pair) {
    return std::isnan(pair.barrier()) ? INFINITY : pair.barrier();
  };
  const auto& steepest = std::ranges::max(population.pairs, {}, barrier_of);
  if (!steepest.between.empty()) {
    text += fmt::format("highest barrier of loss between two of them: {:.3g}, from {} to {}\n",
                        steepest.barrier(), steepest.members[0], steepest.members[1]);
  }
  return text;
}

std::string without_lost(const std::vector<int>& members) {
  return members.empty() ? "" : fmt::format(" (without {})", train::describe_members(members));
}

std::string next_command(const train::Assembly& assembly, const train::Summary& summary) {
  const std::string run = summary.run.string();
  if (!summary.finished) return fmt::format("{} resume {}", program_as_typed(), run);
  if (summary.population) return fmt::format("{} eval {}", program_as_typed(), run);
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
  std::string text =
      fmt::format("{}  {} parameters · {} · {} · {} {} each\n", assembly.model->family(),
                  with_commas(assembly.model->num_parameters()), engine.text("precision", "fp32"),
                  assembly.mesh.describe() + without_lost(recipe.members.lost), assembly.threads,
                  assembly.threads == 1 ? "thread" : "threads");
  text += fmt::format(
      "engine {} (micro-batch {}) · sync {} · ensemble {} · optimizer {} (lr {:g}, {})\n",
      engine.text("name", "backprop"), assembly.stream->options().micro_batch,
      assembly.sync->name(), ensemble.text("name", "none"), assembly.optimizer->name(), schedule.lr,
      shape_name(schedule.shape));
  if (const auto own = train::own_regularization(recipe, assembly.member_id())) {
    text += fmt::format(
        "regularised each in its own way; member {} by mixup {:g}, CutMix {:g}, random erasing "
        "{:g}, label smoothing {:g}\n",
        assembly.member_id(), own->mixup, own->cutmix, own->random_erasing, own->label_smoothing);
  }
  text += stages_text(assembly, engine.text("name", "backprop"));
  text +=
      fmt::format("data   {} · {}\n", assembly.data.train->describe(), assembly.data.path.string());
  text += fmt::format("{}: {} parameters, gradients, optimizer and buffers · {}",
                      assembly.mesh.stages > 1 ? "this stage" : "per rank",
                      human_bytes(state_bytes), traffic_text(assembly));
  return text;
}

// Commits may be larger than the recipe's steps.
std::string steps_text(const train::Summary& summary) {
  const auto progress = static_cast<int64_t>(summary.progress);
  if (progress == summary.steps) return with_commas(summary.steps) + " steps";
  return fmt::format("{} steps in {} commits", with_commas(progress), with_commas(summary.steps));
}

std::string end_text(const train::Assembly& assembly, const train::Summary& summary) {
  std::string text = summary.population ? population_text(*summary.population) : "";
  text +=
      fmt::format("{}{} after {}{}, {} ({} {}/s)\n", summary.population ? "mean of members: " : "",
                  result_text(assembly, summary), steps_text(summary),
                  without_lost(summary.lost_members), human_seconds(summary.train_seconds),
                  with_commas(std::llround(summary.units_per_second)), summary.unit);
  text += fmt::format("memory {} of tensors at most{}", human_bytes(summary.peak_memory_bytes),
                      assembly.mesh.stages > 1 ? " on this stage" : "");
  if (summary.bytes_sent > 0) {
    text += fmt::format(" · sent {}", human_bytes(summary.bytes_sent));
    // Of what stages send each other, bubble_fraction tells what it costs.
    if (bytes_of_a_step(assembly) > 0) {
      text += fmt::format(" · {:.0f} % of {} behind computing", 100 * summary.overlap_fraction,
                          assembly.mesh.stages > 1 ? "that to replicas and members" : "it");
    }
  }
  const std::string run = summary.run.string();
  if (summary.population) {
    text += fmt::format("\naverage {}", summary.population->average_folder.string());
  }
  text += fmt::format("\nrun    {}    tensorboard --logdir {}\nnext   {}", run, run,
                      next_command(assembly, summary));
  return text;
}

}  // namespace outstep::apps
