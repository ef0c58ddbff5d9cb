#include <cmath>
#include <nlohmann/json.hpp>

#include "outstep/apps/commands.h"
#include "outstep/apps/places.h"
#include "outstep/apps/screen.h"
#include "outstep/apps/stored_model.h"
#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/train/tables.h"
#include "outstep/train/trainer.h"

namespace outstep::apps {
namespace {

struct Flags {
  std::string model;
  std::vector<std::string> overrides;
};

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
                              "micro_batch", data::StreamOptions().micro_batch, {.min = 1})});
  assembly->engine = train::make_engine(recipe, *assembly, nullptr);
  return assembly;
}

int run(const Flags& flags, const Invocation& invocation) {
  require_relevant(flags.overrides);
  Screen screen({.json = invocation.wants_json()});
  StoredModel stored = open_stored_model(flags.model);
  train::Recipe recipe = read_recipe(stored, flags.overrides);
  const auto fabrics = comm::local_fabrics(1);  // whatever backend it was trained over
  const auto assembly = assemble(recipe, stored, *fabrics.front());
  recipe.settings.require_overrides_used();
  if (!assembly->data.validation) {
    throw DataError(
        "{} has nothing to validate on; set --data.valid_files or --data.valid_fraction",
        assembly->data.path.string());
  }
  const auto begin = Clock::now();
  const method::Evaluation evaluation = train::evaluate(recipe, *assembly);
  const double seconds = seconds_since(begin);

  const bool is_text = assembly->data.unit == "tokens";
  nlohmann::ordered_json result{{"model", stored.folder.string()},
                                {"data", assembly->data.path.string()},
                                {"loss", evaluation.loss()},
                                {"accuracy", evaluation.accuracy()},
                                {assembly->data.unit, evaluation.units},
                                {"seconds", seconds}};
  screen.line(fmt::format("{}  {}\n{}  {}", stored.folder.string(), assembly->model->family(),
                          assembly->data.path.string(), assembly->data.validation->describe()));
  if (!invocation.wants_json()) {
    screen.write(fmt::format(
        "loss {:.4f}{}, accuracy {:.2f} % over {} {}, {}\n", evaluation.loss(),
        is_text ? fmt::format(" nats ({:.4f} bits)", evaluation.loss() / std::log(2.0)) : "",
        100 * evaluation.accuracy(), with_commas(evaluation.units), assembly->data.unit,
        human_seconds(seconds)));
  }
  screen.result(result);
  return 0;
}

}  // namespace

void add_eval(Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = invocation.add_command(
      {.name = "eval",
       .summary = "Loss and accuracy of a trained model over validation data",
       .examples = "outstep eval runs/quickstart-20261122-101500\n"
                   "outstep eval runs/quickstart-20261122-101500/checkpoints/step-00000400\n"
                   "outstep eval gpt2-folder --data.path=book.txt --data.tokenizer=gpt2"});
  command
      .add_option("model", flags->model,
                  "A run (its newest checkpoint), a checkpoint, or a Hugging Face folder")
      ->required();
  invocation.takes_json(command);
  invocation.takes_overrides(command, flags->overrides);
  invocation.on_run(command, [flags, &invocation] { return run(*flags, invocation); });
}

}  // namespace outstep::apps
