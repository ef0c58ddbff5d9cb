#include "outstep/train/population.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "outstep/base/version.h"
#include "outstep/ensemble/consensus.h"
#include "outstep/io/files.h"
#include "outstep/io/safetensors.h"
#include "outstep/train/agree.h"
#include "outstep/train/evaluation.h"
#include "outstep/train/gathered_model.h"
#include "outstep/train/member_soups.h"

namespace outstep::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Statistics = ensemble::SoupOptions::Statistics;
using Parts = std::vector<int64_t>;

// Squares of norms over this rank's stage become those over the whole model; each replica counts
// the same again.
void add_up(const at::Tensor& squares, Assembly& assembly) {
  assembly.member_group->all_reduce(squares, {.what = "distances of stages"});
  squares.div_(assembly.mesh.replicas);
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

std::vector<Pair> measure_pairs(Assembly& assembly) {
  const at::Tensor squares =
      ensemble::measure_pairs(*assembly.population_group, assembly.params->values());
  add_up(squares, assembly);
  std::vector<Pair> pairs;
  for (int second = 1; second < assembly.mesh.members; ++second) {
    for (int first = 0; first < second; ++first) {
      const double distance = std::sqrt(squares[first][second].item<double>());
      pairs.push_back({.members = {assembly.member_ids[static_cast<size_t>(first)],
                                   assembly.member_ids[static_cast<size_t>(second)]},
                       .distance = distance});
    }
  }
  return pairs;
}

// Evaluates models on the straight lines between members, and the members themselves with running
// statistics of the same making. pairs: as measure_pairs has them. Collective over the world.
void walk(std::vector<Pair>& pairs, size_t num_members, int64_t num_points, MemberSoups& soups) {
  std::vector<method::Evaluation> ends;
  for (size_t member = 0; member < num_members; ++member) {
    Parts parts(num_members, 0);
    parts[member] = 1;
    ends.push_back(soups.evaluate(parts));
  }
  auto pair = pairs.begin();
  for (size_t second = 1; second < num_members; ++second) {
    for (size_t first = 0; first < second; ++first, ++pair) {
      pair->ends = {ends[first], ends[second]};
      for (int64_t point = 1; point <= num_points; ++point) {
        Parts parts(num_members, 0);
        parts[first] = num_points + 1 - point;
        parts[second] = point;
        pair->between.push_back(soups.evaluate(parts));
      }
    }
  }
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

fs::path average_folder(const fs::path& run_folder) { return run_folder / "average"; }

Distance measure_distance(Assembly& assembly) {
  const ensemble::Consensus own =
      ensemble::measure_consensus(*assembly.population_group, assembly.params->values());
  const at::Tensor sums = at::zeros({2}, at::kDouble);
  sums[0] = own.distance;
  sums[1] = own.mean_norm;
  add_up(sums, assembly);
  const double squared = sums[0].item<double>(), mean_norm = sums[1].item<double>();
  return {.squared = squared, .relative = mean_norm > 0 ? std::sqrt(squared / mean_norm) : 0};
}

double Pair::barrier() const {
  double barrier = 0;
  for (size_t i = 0; i < between.size(); ++i) {
    const double share = static_cast<double>(i + 1) / static_cast<double>(between.size() + 1);
    const double line = (1 - share) * ends[0].loss() + share * ends[1].loss();
    const double above = between[i].loss() - line;
    if (std::isnan(above)) return above;
    barrier = std::max(barrier, above);
  }
  return barrier;
}

Population conclude(const Recipe& recipe, Assembly& assembly, const fs::path& run_folder,
                    int64_t step, std::vector<method::Evaluation> members,
                    const Distance& distance) {
  members.resize(static_cast<size_t>(assembly.mesh.members));
  Population population{.member_ids = assembly.member_ids,
                        .members = std::move(members),
                        .ensemble = evaluate_ensemble(recipe, assembly),
                        .average = {},
                        .greedy = {},
                        .greedy_members = {},
                        .consensus_distance = distance.squared,
                        .relative_distance = distance.relative,
                        .pairs = measure_pairs(assembly),
                        .average_folder = average_folder(run_folder),
                        .has_classes = assembly.data.num_classes > 0};
  MemberSoups soups(recipe, assembly);
  population.average = soups.evaluate(Parts(population.members.size(), 1));
  write_average(population.average_folder, recipe, assembly,
                provenance(recipe, assembly, run_folder, step, population));
  if (!assembly.data.validation) return population;

  std::vector<double> scores;
  for (const method::Evaluation& member : population.members) {
    scores.push_back(score_of(member, assembly));
  }
  std::map<std::vector<int>, method::Evaluation> tried;
  for (size_t member = 0; member < scores.size(); ++member) {
    tried[{static_cast<int>(member)}] = population.members[member];
  }
  const auto greedy = ensemble::greedy_soup(scores, [&](std::span<const int> ingredients) {
    Parts parts(scores.size(), 0);
    for (const int member : ingredients) parts[static_cast<size_t>(member)] = 1;
    const method::Evaluation evaluation = soups.evaluate(parts);
    tried[{ingredients.begin(), ingredients.end()}] = evaluation;
    return score_of(evaluation, assembly);
  });
  population.greedy = tried.at(greedy.ingredients);
  for (const int place : greedy.ingredients) {
    population.greedy_members.push_back(assembly.member_ids[static_cast<size_t>(place)]);
  }
  if (assembly.soup.barrier_points > 0) {
    walk(population.pairs, scores.size(), assembly.soup.barrier_points, soups);
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
  for (const Pair& pair : pairs) {
    Json entry{{"members", pair.members}, {"distance", pair.distance}};
    if (!pair.between.empty()) entry["barrier"] = pair.barrier();
    for (const auto& point : pair.between) {
      entry["between"].push_back(train::to_json(point, has_classes));
    }
    json["pairs"].push_back(entry);
  }
  json["average_folder"] = average_folder.string();
  json["population_bytes_sent"] = bytes_sent;
  return json;
}

}  // namespace outstep::train
