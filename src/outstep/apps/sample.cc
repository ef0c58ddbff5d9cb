#include <nlohmann/json.hpp>

#include "outstep/apps/commands.h"
#include "outstep/apps/generate.h"
#include "outstep/apps/printable.h"
#include "outstep/apps/screen.h"
#include "outstep/apps/stored_model.h"

namespace outstep::apps {
namespace {

struct Flags {
  std::string model;
  std::string tokenizer;
  GenerateOptions generate{.prompt = "\n", .sample = {.max_tokens = 300, .temperature = 0.8}};
};

int run(const Flags& flags, const Invocation& invocation) {
  Screen screen({.json = invocation.wants_json()});
  const StoredModel stored = open_stored_model(flags.model);
  const auto tokenizer = tokenizer_of(stored, flags.tokenizer);
  screen.write(flags.generate.prompt);
  const std::string text =
      generate(*stored.model, *tokenizer, flags.generate,
               [&](const std::string& piece) { screen.write(printable(piece)); });
  screen.write("\n");
  screen.result({{"model", stored.folder.string()},
                 {"prompt", flags.generate.prompt},
                 {"text", printable(text)},
                 {"seed", flags.generate.sample.seed}});
  return 0;
}

}  // namespace

void add_sample(Invocation& invocation) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = invocation.add_command(
      {.name = "sample",
       .summary = "Let a trained language model continue a text",
       .examples = "outstep sample runs/quickstart-20261122-101500 --prompt \"ROMEO:\"\n"
                   "outstep sample gpt2-folder --prompt \"The sea\" --tokens 50 --top-k 40"});
  command
      .add_option("model", flags->model,
                  "A run (its newest checkpoint), a checkpoint, or a Hugging Face folder")
      ->required();
  command.add_option("--prompt", flags->generate.prompt,
                     "The text to continue (default: a line feed)");
  command.add_option("--tokens", flags->generate.sample.max_tokens, "How many new tokens at most")
      ->check(CLI::Range(int64_t{1}, int64_t{10'000'000}))
      ->capture_default_str();
  command
      .add_option("--temperature", flags->generate.sample.temperature,
                  "Below 1: likelier tokens; 0: always the likeliest")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command
      .add_option("--top-k", flags->generate.sample.top_k,
                  "Only among so many likeliest tokens; 0: all")
      ->check(CLI::Range(int64_t{0}, int64_t{10'000'000}))
      ->capture_default_str();
  command.add_option("--seed", flags->generate.sample.seed, "The same seed draws the same text")
      ->capture_default_str();
  command.add_option("--tokenizer", flags->tokenizer,
                     "\"bytes\", \"gpt2\" or a folder (default: the one it was trained with)");
  invocation.takes_json(command);
  invocation.on_run(command, [flags, &invocation] { return run(*flags, invocation); });
}

}  // namespace outstep::apps
