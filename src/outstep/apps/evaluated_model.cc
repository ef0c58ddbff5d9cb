#include "outstep/apps/evaluated_model.h"

#include <nlohmann/json.hpp>

#include "outstep/apps/places.h"
#include "outstep/base/errors.h"
#include "outstep/train/tables.h"

namespace outstep::apps {
namespace {

// As many as the end of the first ingredient's run takes, where each of its ranks makes as many.
int64_t soup_batches(train::Recipe& recipe, const StoredModel& stored) {
  const int64_t wanted =
      recipe.settings.section("ensemble")
          .integer("batch_norm_batches", ensemble::SoupOptions().batches, {.min = 1});
  if (!stored.recipe) return wanted;
  const comm::Mesh mesh = train::read_recipe(*stored.recipe, {}).mesh;
  const int64_t num_ranks = int64_t{mesh.members} * mesh.replicas;
  return (wanted + num_ranks - 1) / num_ranks * num_ranks;
}

train::Recipe read_recipe(const StoredModel& stored, std::vector<std::string> overrides) {
  overrides.push_back("mesh.replicas=1");  // one process evaluates, all of the model
  overrides.push_back("mesh.stages=1");
  overrides.push_back("mesh.members=1");
  overrides.push_back("ensemble.lost=[]");
  overrides.push_back("engine.name=backprop");
  if (stored.recipe) return train::read_recipe(*stored.recipe, overrides);
  return train::read_recipe_text("", stored.folder.string(), overrides);
}

// The data may be another than the model was trained on.
void require_fit(const StoredModel& stored, const data::Datasets& data, const std::string& name) {
  nn::ModelFacts facts{.source = fmt::format("data \"{}\"", name),
                       .vocab_size = data.vocab_size,
                       .num_classes = data.num_classes};
  // Windows of text are as long as the model takes.
  if (data.vocab_size == 0) facts.input_shape = data.input_shape;
  try {
    stored.model->require_takes(facts, [&](const std::string&) { return stored.folder.string(); });
  } catch (const ConfigError& error) {
    throw ConfigError("{}; --data.name, --data.path and --data.tokenizer choose other data",
                      error.what());
  }
}

// The stored model in the place of a rank's, with the data beside it.
std::unique_ptr<train::Assembly> assemble(train::Recipe& recipe, StoredModel& stored,
                                          comm::Fabric& fabric) {
  auto assembly = train::make_groups(recipe, fabric);
  const auto config = stored.model->config();
  // A model that knows no text is refused it below.
  const auto n_positions = config.value("n_positions", int64_t{1});
  const auto options = data::read_data_options(recipe.settings.section("data"), n_positions);
  assembly->data = data::open_datasets(options, places_of_machine());
  require_fit(stored, assembly->data, options.name);
  assembly->model = std::move(stored.model);
  assembly->params = std::move(stored.params);
  assembly->stream = std::make_unique<data::Stream>(
      assembly->data.train,
      data::StreamOptions{.micro_batch = recipe.settings.section("engine").integer(
                              "micro_batch", data::StreamOptions().micro_batch, {.min = 1}),
                          .augment = options.augment});
  assembly->engine = train::make_engine(recipe, *assembly, nullptr);
  return assembly;
}

StoredModel open(const std::filesystem::path& named, const std::vector<std::string>& overrides,
                 Use use) {
  require_relevant(overrides, use);
  return open_stored_model(named);
}

}  // namespace

// What either reads of a recipe; the rest says how the model was trained.
void require_relevant(const std::vector<std::string>& overrides, Use use) {
  for (const std::string& override : overrides) {
    const std::string section = override.substr(0, override.find('.'));
    if (section == "data" || section == "engine") continue;
    if (use == Use::eval && section != "evaluation") {
      throw ConfigError("--{}: eval takes keys of [data], [evaluation] and [engine] only",
                        override);
    }
    if (use == Use::soup && !override.starts_with("ensemble.batch_norm_batches=")) {
      throw ConfigError(
          "--{}: soup takes keys of [data] and [engine], and ensemble.batch_norm_batches, only",
          override);
    }
  }
}

EvaluatedModel::EvaluatedModel(const std::filesystem::path& named,
                               const std::vector<std::string>& overrides, Use use)
    : EvaluatedModel(open(named, overrides, use), overrides, use) {}

EvaluatedModel::EvaluatedModel(StoredModel stored, const std::vector<std::string>& overrides,
                               Use use)
    : folder_(stored.folder),
      recipe_(read_recipe(stored, overrides)),
      fabrics_(comm::local_fabrics(1)),  // whatever backend it was trained over
      assembly_(assemble(recipe_, stored, *fabrics_.front())) {
  if (use == Use::soup) assembly_->soup.batches = soup_batches(recipe_, stored);
  recipe_.settings.require_overrides_used();
}

}  // namespace outstep::apps
