#include <cmath>
#include <nlohmann/json.hpp>

#include "outstep/apps/commands.h"
#include "outstep/apps/evaluated_model.h"
#include "outstep/apps/screen.h"
#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/train/evaluation.h"

namespace outstep::apps {
namespace {

struct Flags {
  std::string model;
  std::vector<std::string> overrides;
};

int run(const Flags& flags, const Invocation& invocation) {
  Screen screen({.json = invocation.wants_json()});
  EvaluatedModel evaluated(flags.model, flags.overrides);
  train::Assembly& assembly = evaluated.assembly();
  if (!assembly.data.validation) {
    throw DataError(
        "{} has nothing to validate on; set --data.valid_files or --data.valid_fraction",
        assembly.data.path.string());
  }
  const auto begin = Clock::now();
  const method::Evaluation evaluation = train::evaluate(evaluated.recipe(), assembly);
  const double seconds = seconds_since(begin);

  const bool is_text = assembly.data.unit == "tokens";
  nlohmann::ordered_json result{{"model", evaluated.folder().string()},
                                {"data", assembly.data.path.string()},
                                {"loss", evaluation.loss()},
                                {"accuracy", evaluation.accuracy()},
                                {assembly.data.unit, evaluation.units},
                                {"seconds", seconds}};
  screen.line(fmt::format("{}  {}\n{}  {}", evaluated.folder().string(), assembly.model->family(),
                          assembly.data.path.string(), assembly.data.validation->describe()));
  if (!invocation.wants_json()) {
    screen.write(fmt::format(
        "loss {:.4f}{}, accuracy {:.2f} % over {} {}, {}\n", evaluation.loss(),
        is_text ? fmt::format(" nats ({:.4f} bits)", evaluation.loss() / std::log(2.0)) : "",
        100 * evaluation.accuracy(), with_commas(evaluation.units), assembly.data.unit,
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
