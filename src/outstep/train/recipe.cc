#include "outstep/train/recipe.h"

#include <utility>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"

namespace outstep::train {
namespace {

constexpr int64_t kMaxAxis = 4096;  // ranks along one axis: catches slips of the finger

comm::Mesh read_mesh(io::Section section) {
  const io::IntegerBounds bounds{.min = 1, .max = kMaxAxis};
  comm::Mesh mesh;
  mesh.members = static_cast<int>(section.integer("members", mesh.members, bounds));
  mesh.replicas = static_cast<int>(section.integer("replicas", mesh.replicas, bounds));
  mesh.stages = static_cast<int>(section.integer("stages", mesh.stages, bounds));
  return mesh;
}

comm::FabricOptions read_comm(io::Section section) {
  comm::FabricOptions options;
  options.backend = section.text("backend", options.backend, {.choices = {"gloo", "mpi", "nccl"}});
  const double deadline =
      section.number("deadline_seconds", std::chrono::duration<double>(options.deadline).count(),
                     {.min = 0, .max = 24 * 3600.0, .excludes_min = true});
  options.deadline = std::chrono::milliseconds(static_cast<int64_t>(deadline * 1000));
  options.record_flights = section.flag("record_flights", options.record_flights);
  options.link = section.text("link", options.link);
  options.interface = section.text("interface", options.interface);
  return options;
}

TrainOptions read_train(io::Section section) {
  TrainOptions options;
  options.steps = section.integer("steps", options.steps, {.min = 1});
  options.accumulation = section.integer("accumulation", options.accumulation, {.min = 1});
  options.seed = static_cast<uint64_t>(
      section.integer("seed", static_cast<int64_t>(options.seed), {.min = 0}));
  options.clip_norm = section.number("clip_norm", options.clip_norm, {.min = 0});
  options.threads = section.integer("threads", options.threads, {.min = 0, .max = 1024});
  options.device = section.text("device", options.device, {.choices = {"cpu", "cuda"}});
  return options;
}

EvaluationOptions read_evaluation(io::Section section) {
  EvaluationOptions options;
  options.every = section.integer("every", options.every, {.min = 0});
  options.max_batches = section.integer("max_batches", options.max_batches, {.min = 0});
  options.batch = section.integer("batch", options.batch, {.min = 0});
  return options;
}

CheckpointOptions read_checkpoint(io::Section section) {
  CheckpointOptions options;
  options.every = section.integer("every", options.every, {.min = 0});
  options.keep = section.integer("keep", options.keep, {.min = 1});
  options.keep_best = section.flag("keep_best", options.keep_best);
  return options;
}

LogOptions read_log(io::Section section) {
  LogOptions options;
  options.every = section.integer("every", options.every, {.min = 1});
  options.tensorboard = section.flag("tensorboard", options.tensorboard);
  return options;
}

Recipe read_sections(std::string name, io::Settings settings) {
  Recipe recipe(std::move(name), std::move(settings));
  recipe.mesh = read_mesh(recipe.settings.section("mesh"));
  recipe.members = Members::read(recipe.settings.section("ensemble"), recipe.mesh.members);
  recipe.mesh.members = static_cast<int>(recipe.members.ids.size());
  recipe.comm = read_comm(recipe.settings.section("comm"));
  recipe.train = read_train(recipe.settings.section("train"));
  recipe.evaluation = read_evaluation(recipe.settings.section("evaluation"));
  recipe.checkpoint = read_checkpoint(recipe.settings.section("checkpoint"));
  recipe.log = read_log(recipe.settings.section("log"));
  return recipe;
}

std::string name_of(const std::filesystem::path& path) {
  const std::string stem = path.stem().string();
  const std::string folder = std::filesystem::absolute(path).parent_path().filename().string();
  return stem == "recipe" && !folder.empty() ? folder : stem;
}

}  // namespace

Recipe read_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  return read_sections(name_of(path), io::Settings::from_file(path, overrides));
}

Recipe read_recipe_text(const std::string& toml, const std::string& origin,
                        const std::vector<std::string>& overrides) {
  return read_sections(origin, io::Settings::from_text(toml, origin, overrides));
}

}  // namespace outstep::train
