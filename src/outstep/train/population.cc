#include "outstep/train/population.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "outstep/base/version.h"
#include "outstep/ensemble/consensus.h"
#include "outstep/io/files.h"
#include "outstep/io/safetensors.h"
#include "outstep/train/agree.h"
#include "outstep/train/evaluation.h"
#include "outstep/train/gathered_model.h"

namespace outstep::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Statistics = ensemble::SoupOptions::Statistics;

// Parameters and buffers of this rank, put back when the scope is left.
class OwnModel {
 public:
  explicit OwnModel(const nn::FlatParams& params)
      : values_(params.values()),
        buffers_(params.buffers()),
        own_values_(values_.clone()),
        own_buffers_(buffers_.clone()) {}
  ~OwnModel() { put_back(); }
  OwnModel(const OwnModel&) = delete;
  OwnModel& operator=(const OwnModel&) = delete;

  void put_back() const {
    values_.copy_(own_values_);
    buffers_.copy_(own_buffers_);
  }

 private:
  const at::Tensor values_, buffers_;
  const at::Tensor own_values_, own_buffers_;
};

// From every member's own parameters and buffers.
void become_soup(const Recipe& recipe, Assembly& assembly, std::span<const int> ingredients) {
  comm::Group& members = *assembly.population_group;
  const at::Tensor& buffers = assembly.params->buffers();
  ensemble::make_soup(members, assembly.params->values(), ingredients);
  ensemble::make_soup(members, buffers, ingredients);
  // Replicas have the same weights, but running statistics of their own.
  assembly.control_group->all_reduce(buffers, {.what = "running statistics"});
  buffers.div_(assembly.control_group->size());
  if (assembly.soup.statistics == Statistics::recompute && has_buffers(*assembly.model)) {
    recompute_statistics(recipe, assembly);
  }
}

double score_of(const method::Evaluation& evaluation, const Assembly& assembly) {
  return assembly.data.num_classes > 0 ? evaluation.accuracy() : -evaluation.loss();
}

Json to_json(const method::Evaluation& evaluation, bool has_classes) {
  if (evaluation.units == 0) return Json::object();  // nothing to validate on
  Json json{{"validation_loss", evaluation.loss()}};
  if (has_classes) json["accuracy"] = evaluation.accuracy();
  return json;
}

// Where each ingredient comes from, for whoever finds the file.
Json provenance(const Recipe& recipe, const Assembly& assembly, const fs::path& run_folder,
                int64_t step, const Population& population) {
  Json ingredients = Json::array();
  for (size_t i = 0; i < population.members.size(); ++i) {
    const int member = population.member_ids[i];
    Json ingredient{{"run", run_folder.string()},
                    {"step", step},
                    {"member", member},
                    {"seed", member_seed(recipe.train.seed, member)}};
    ingredient.update(to_json(population.members[i], population.has_classes));
    ingredients.push_back(ingredient);
  }
  return {
      {"kind", "uniform soup"},
      {"ensemble", assembly.mixer ? assembly.mixer->name() : "none"},
      {"batch_norm", assembly.soup.statistics == Statistics::recompute ? "recompute" : "average"},
      {"outstep", build_info().version},
      {"commit", build_info().commit},
      {"ingredients", ingredients}};
}

// The live parameters are the average. Collective over the world.
void write_average(const fs::path& folder, const Recipe& recipe, const Assembly& assembly,
                   const Json& provenance) {
  const NamedTensors tensors = gather_stages(assembly);
  together(*assembly.world_group, [&] {
    if (assembly.world_group->rank() != 0) return;
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) throw DataError("cannot make the folder {}: {}", folder.string(), error.message());
    io::write_text_atomically(folder / "config.json", assembly.model->config().dump(2) + "\n");
    io::write_text_atomically(folder / "recipe.toml", recipe.settings.resolved());
    // Last: a folder with a model in it is complete.
    io::write_safetensors(folder / "model.safetensors", tensors,
                          {{"format", "pt"}, {"soup", provenance.dump()}});
  });
}

}  // namespace

void recompute_statistics(const Recipe& recipe, Assembly& assembly) {
  const auto& [num_members, num_replicas, num_stages] = assembly.mesh;
  const at::Tensor& buffers = assembly.params->buffers();
  data::StreamOptions options = assembly.stream->options();
  options.seed = recipe.train.seed;
  options.replica = assembly.place.member * num_replicas + assembly.place.replica;
  options.num_replicas = num_members * num_replicas;
  options.prefetch = 0;
  data::Stream stream(assembly.data.train, options);
  const int64_t num_batches =
      (assembly.soup.batches + options.num_replicas - 1) / options.num_replicas;
  for (int64_t k = 0; k < num_batches; ++k) {
    assembly.engine->predict(
        stream.next(), {.training = true, .statistics_rate = 1.0 / static_cast<double>(k + 1)});
  }
  for (comm::Group* group : {assembly.control_group.get(), assembly.population_group.get()}) {
    group->all_reduce(buffers, {.what = "running statistics"});
    buffers.div_(group->size());
  }
}

bool has_buffers(const nn::Model& model) {
  return std::ranges::any_of(model.blocks,
                             [](const auto& block) { return !block->buffers().empty(); });
}

fs::path average_folder(const fs::path& run_folder) { return run_folder / "average"; }

Distance measure_distance(Assembly& assembly) {
  const ensemble::Consensus own =
      ensemble::measure_consensus(*assembly.population_group, assembly.params->values());
  const at::Tensor sums = at::zeros({2}, at::kDouble);
  sums[0] = own.distance;
  sums[1] = own.mean_norm;
  // Stages add up; each replica counts the same again.
  assembly.member_group->all_reduce(sums, {.what = "distances of stages"});
  const double squared = sums[0].item<double>() / assembly.mesh.replicas;
  const double mean_norm = sums[1].item<double>() / assembly.mesh.replicas;
  return {.squared = squared, .relative = mean_norm > 0 ? std::sqrt(squared / mean_norm) : 0};
}

Population conclude(const Recipe& recipe, Assembly& assembly, const fs::path& run_folder,
                    int64_t step, std::vector<method::Evaluation> members) {
  const Distance distance = measure_distance(assembly);
  members.resize(static_cast<size_t>(assembly.mesh.members));
  Population population{.member_ids = assembly.member_ids,
                        .members = std::move(members),
                        .ensemble = evaluate_ensemble(recipe, assembly),
                        .average = {},
                        .greedy = {},
                        .greedy_members = {},
                        .consensus_distance = distance.squared,
                        .relative_distance = distance.relative,
                        .average_folder = average_folder(run_folder),
                        .has_classes = assembly.data.num_classes > 0};
  assembly.engine->pause();
  const OwnModel own(*assembly.params);
  std::vector<int> everyone(static_cast<size_t>(assembly.mesh.members));
  std::iota(everyone.begin(), everyone.end(), 0);
  become_soup(recipe, assembly, everyone);
  population.average = evaluate_shared(recipe, assembly);
  write_average(population.average_folder, recipe, assembly,
                provenance(recipe, assembly, run_folder, step, population));
  if (!assembly.data.validation) return population;

  std::vector<double> scores;
  for (const method::Evaluation& member : population.members) {
    scores.push_back(score_of(member, assembly));
  }
  std::map<std::vector<int>, method::Evaluation> soups;
  for (const int member : everyone) {
    soups[{member}] = population.members[static_cast<size_t>(member)];
  }
  const auto soup = ensemble::greedy_soup(scores, [&](std::span<const int> ingredients) {
    own.put_back();
    become_soup(recipe, assembly, ingredients);
    const method::Evaluation evaluation = evaluate_shared(recipe, assembly);
    soups[{ingredients.begin(), ingredients.end()}] = evaluation;
    return score_of(evaluation, assembly);
  });
  population.greedy = soups.at(soup.ingredients);
  for (const int place : soup.ingredients) {
    population.greedy_members.push_back(assembly.member_ids[static_cast<size_t>(place)]);
  }
  return population;
}

Json Population::to_json() const {
  Json json;
  for (size_t i = 0; i < members.size(); ++i) {
    Json member{{"member", member_ids[i]}};
    member.update(train::to_json(members[i], has_classes));
    json["members"].push_back(member);
  }
  json["ensemble"] = train::to_json(ensemble, has_classes);
  json["average"] = train::to_json(average, has_classes);
  json["greedy"] = train::to_json(greedy, has_classes);
  json["greedy"]["members"] = greedy_members;
  json["consensus_distance"] = consensus_distance;
  json["relative_distance"] = relative_distance;
  json["average_folder"] = average_folder.string();
  return json;
}

}  // namespace outstep::train
