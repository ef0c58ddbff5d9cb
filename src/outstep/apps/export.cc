#include <nlohmann/json.hpp>

#include "outstep/apps/commands.h"
#include "outstep/apps/model_place.h"
#include "outstep/apps/places.h"
#include "outstep/apps/screen.h"
#include "outstep/apps/stored_model.h"
#include "outstep/base/text.h"
#include "outstep/io/settings.h"
#include "outstep/nn/hugging_face.h"

namespace outstep::apps {
namespace {

struct Flags {
  std::string model;
  std::string to;
};

// What eval needs to be told of the data, which a model's folder does not know.
std::string data_flags(const StoredModel& stored) {
  if (!stored.recipe) {
    return stored.model->family() == "gpt2" ? " --data.path=FILE"
                                            : " --data.name=NAME --data.path=FOLDER";
  }
  auto settings = io::Settings::from_file(*stored.recipe);
  io::Section data = settings.section("data");
  const std::string name = data.text("name", "text");
  const std::string path = data.text("path", "");
  const std::string tokenizer = data.text("tokenizer", "bytes");
  std::string flags;
  if (name != "text") flags += " --data.name=" + name;
  if (!path.empty()) flags += " --data.path=" + path;
  if (tokenizer != "bytes") flags += " --data.tokenizer=" + tokenizer;
  if (name == "tokens") {
    flags += fmt::format(" --data.vocab_size={}", data.integer("vocab_size", 0));
  }
  return flags;
}

int run(const Flags& flags, const Invocation& invocation) {
  Screen screen({.json = invocation.wants_json()});
  const std::filesystem::path to = flags.to;
  require_place_for_model(to);
  const StoredModel stored = open_stored_model(flags.model);
  nn::write_folder(to, *stored.model, *stored.params);
  screen.line(
      fmt::format("{}  {} parameters, from {}\nwritten to {}: config.json, model.safetensors",
                  stored.model->family(), with_commas(stored.params->num_parameters()),
                  stored.folder.string(), to.string()));
  if (stored.model->family() == "gpt2") {
    screen.line(
        fmt::format("load   transformers.GPT2LMHeadModel.from_pretrained(\"{}\")", flags.to));
  }
  screen.line(fmt::format("next   {} eval {}{}", program_as_typed(), flags.to, data_flags(stored)));
  screen.result({{"folder", to.string()},
                 {"model", stored.model->family()},
                 {"parameters", stored.params->num_parameters()},
                 {"from", stored.folder.string()}});
  return 0;
}

}  // namespace

void add_export(Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = invocation.add_command(
      {.name = "export",
       .summary = "Write a trained model as a Hugging Face folder",
       .examples = "outstep export runs/quickstart-20261122-101500 --to my-model"});
  command
      .add_option("model", flags->model, "A run (its newest checkpoint), a checkpoint, or a folder")
      ->required();
  command.add_option("--to", flags->to, "The folder to write; made if it is not there")->required();
  invocation.takes_json(command);
  invocation.on_run(command, [flags, &invocation] { return run(*flags, invocation); });
}

}  // namespace outstep::apps
