#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

// One call of the program: what was typed, and which subcommand it means.
//
//   Invocation invocation({argv + 1, argv + argc});
//   add_plan(invocation);      // and all other subcommands
//   return invocation.run();   // exit code; throws what the subcommand throws
//
// A subcommand is a function add_NAME(Invocation&) that describes its flags and hands over what to
// run:
//
//   void add_plan(Invocation& invocation) {
//     auto flags = std::make_shared<PlanFlags>();
//     CLI::App& command =
//         invocation.add_command({.name = "plan", .summary = "…", .examples = "outstep plan …"});
//     command.add_option("recipe", flags->recipe, "…")->required();
//     invocation.takes_overrides(command, flags->overrides);
//     invocation.on_run(command, [flags, &invocation] { return run_plan(*flags, invocation); });
//   }

namespace outstep::apps {

struct CommandText {
  std::string name;
  std::string summary;   // one sentence
  std::string examples;  // lines as typed
};

class Invocation {
 public:
  explicit Invocation(std::vector<std::string> arguments);  // without the program's name

  // Below another command ("outstep data get"), or below none.
  CLI::App& add_command(const CommandText& text, CLI::App* parent = nullptr);
  // Lets the command take --section.key=value, collected as "section.key=value".
  void takes_overrides(CLI::App& command, std::vector<std::string>& overrides);
  // Lets the command take flags it does not know, for another program, and a program behind "--".
  void passes_on(CLI::App& command, std::vector<std::string>& unknown,
                 std::vector<std::string>& program);
  // --json, the same for every command that has it.
  void takes_json(CLI::App& command);
  void on_run(CLI::App& command, std::function<int()> run);

  // Parses and runs. --help and --version print and return 0. Throws ConfigError for what cannot be
  // understood, with the nearest spelling.
  int run();

  bool wants_json() const { return wants_json_; }
  // As typed, for starting the same command once more.
  const std::vector<std::string>& arguments() const { return arguments_; }

 private:
  struct Command {
    CLI::App* app = nullptr;
    std::function<int()> run = nullptr;
    std::vector<std::string>* overrides = nullptr;  // null: it takes none
    std::vector<std::string>* unknown = nullptr;    // null: an unknown flag is an error
    std::vector<std::string>* program = nullptr;    // null: "--" is nothing special
  };
  Command& command_of(const CLI::App& app);
  Command& parsed_command();
  void set_program_apart();
  void sort_out_remaining(const Command& command) const;

  std::vector<std::string> arguments_;
  CLI::App root_;
  std::vector<Command> commands_;
  bool wants_json_ = false;
};

}  // namespace outstep::apps
