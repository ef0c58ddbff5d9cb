#include "outstep/apps/evaluated_model.h"

#include <nlohmann/json.hpp>

#include "outstep/apps/places.h"
#include "outstep/base/errors.h"
#include "outstep/train/tables.h"

namespace outstep::apps {
namespace {

// What an evaluation reads of a recipe; the rest says how the model was trained.
void require_relevant(const std::vector<std::string>& overrides) {
  for (const std::string& override : overrides) {
    const std::string section = override.substr(0, override.find('.'));
    if (section != "data" && section != "evaluation" && section != "engine") {
      throw ConfigError("--{}: eval takes keys of [data], [evaluation] and [engine] only",
                        override);
    }
  }
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

StoredModel open(const std::filesystem::path& named, const std::vector<std::string>& overrides) {
  require_relevant(overrides);
  return open_stored_model(named);
}

}  // namespace

EvaluatedModel::EvaluatedModel(const std::filesystem::path& named,
                               const std::vector<std::string>& overrides)
    : EvaluatedModel(open(named, overrides), overrides) {}

EvaluatedModel::EvaluatedModel(StoredModel stored, const std::vector<std::string>& overrides)
    : folder_(stored.folder),
      recipe_(read_recipe(stored, overrides)),
      fabrics_(comm::local_fabrics(1)),  // whatever backend it was trained over
      assembly_(assemble(recipe_, stored, *fabrics_.front())) {
  recipe_.settings.require_overrides_used();
}

}  // namespace outstep::apps
