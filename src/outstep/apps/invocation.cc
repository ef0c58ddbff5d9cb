#include "outstep/apps/invocation.h"

#include <algorithm>
#include <sstream>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/base/version.h"

namespace outstep::apps {
namespace {

constexpr size_t kHelpColumn = 34;

std::string version_text() {
  const BuildInfo& build = build_info();
  return fmt::format("outstep {} (commit {}, torch {}, {}, {})", build.version, build.commit,
                     build.torch_version, build.compiler, build.build_type);
}

// "--sync.name=ddp", or as it is often mistyped, without the value.
bool is_override(const std::string& argument) {
  if (!argument.starts_with("--")) return false;
  const std::string key = argument.substr(2, argument.find('=') - 2);
  const size_t dot = key.find('.');
  return dot != key.npos && dot > 0 && dot + 1 < key.size();
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& known) {
  const std::string nearest = nearest_spelling(word, known);
  return nearest.empty() ? "" : fmt::format("; did you mean \"{}\"?", nearest);
}

std::vector<std::string> flags_of(const CLI::App& app) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
    for (const std::string& name : option->get_snames()) flags.push_back("-" + name);
  }
  return flags;
}

}  // namespace

Invocation::Invocation(std::vector<std::string> arguments)
    : arguments_(std::move(arguments)),
      root_("Trains neural networks out of lockstep: parts of a run stop waiting for one another.",
            "outstep") {
  root_.set_version_flag("--version", version_text(),
                         "Print version, commit and torch, then leave");
  root_.set_help_flag("-h,--help", "Print this help, or with a command the help of that command");
  root_.footer(
      "Examples:\n"
      "  outstep train recipes/quickstart.toml\n"
      "  outstep train recipes/quickstart.toml --train.steps=50 --optimizer.lr=2e-3\n"
      "  outstep COMMAND --help");
  root_.get_formatter()->column_width(kHelpColumn);
  root_.require_subcommand(0, 1);
  root_.allow_extras();
  const auto end = std::find(arguments_.begin(), arguments_.end(), "--");
  wants_json_ = std::find(arguments_.begin(), end, "--json") != end;
}

CLI::App& Invocation::add_command(const CommandText& text, CLI::App* parent) {
  CLI::App* app = (parent != nullptr ? *parent : root_).add_subcommand(text.name, text.summary);
  if (parent != nullptr) parent->require_subcommand(0, 1);
  app->allow_extras();
  std::string footer = "Examples:";
  std::istringstream lines(text.examples);
  for (std::string line; std::getline(lines, line);) footer += "\n  " + line;
  app->footer(footer);
  commands_.push_back({.app = app});
  return *app;
}

void Invocation::takes_overrides(CLI::App& command, std::vector<std::string>& overrides) {
  command_of(command).overrides = &overrides;
  command.footer(command.get_footer() +
                 "\n\n--SECTION.KEY=VALUE sets a key of the recipe and wins over its file.");
}

void Invocation::passes_on(CLI::App& command, std::vector<std::string>& unknown,
                           std::vector<std::string>& program) {
  command_of(command).unknown = &unknown;
  command_of(command).program = &program;
}

void Invocation::takes_json(CLI::App& command) {
  command.add_flag("--json", wants_json_,
                   "Print exactly one JSON object on stdout, all else on stderr");
}

void Invocation::on_run(CLI::App& command, std::function<int()> run) {
  command_of(command).run = std::move(run);
}

Invocation::Command& Invocation::command_of(const CLI::App& app) {
  const auto found = std::find_if(commands_.begin(), commands_.end(),
                                  [&](const Command& command) { return command.app == &app; });
  check(found != commands_.end(), "a command is added before it is described");
  return *found;
}

int Invocation::run() {
  set_program_apart();
  try {
    root_.parse(
        std::vector<std::string>(arguments_.rbegin(), arguments_.rend()));  // as CLI11 wants it
  } catch (const CLI::Success& asked) {                                     // --help, --version
    return root_.exit(asked);
  } catch (const CLI::ParseError& error) {
    const auto parsed = root_.get_subcommands();
    if (!parsed.empty())
      sort_out_remaining(parsed_command());  // a slip of the finger explains more
    throw ConfigError("{}; see: outstep {}--help", error.what(),
                      parsed.empty() ? "" : parsed.front()->get_name() + " ");
  }
  if (arguments_.empty()) {
    std::printf("%s", root_.help().c_str());
    return 0;
  }
  Command& command = parsed_command();
  sort_out_remaining(command);
  return command.run();
}

// What stands behind "--" is another program's, where a command takes one.
void Invocation::set_program_apart() {
  const auto dashes = std::find(arguments_.begin(), arguments_.end(), "--");
  if (dashes == arguments_.end()) return;
  for (const Command& command : commands_) {
    if (command.program == nullptr || arguments_[0] != command.app->get_name()) continue;
    command.program->assign(dashes + 1, arguments_.end());
    arguments_.erase(dashes, arguments_.end());
    return;
  }
}

// The innermost command that was named. Throws if that is not one that runs.
Invocation::Command& Invocation::parsed_command() {
  CLI::App* app = &root_;
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  if (app != &root_ && command_of(*app).run) return command_of(*app);
  std::vector<std::string> known;
  for (const CLI::App* below : app->get_subcommands([](CLI::App*) { return true; })) {
    known.push_back(below->get_name());
  }
  const std::string path = app == &root_ ? "outstep" : "outstep " + app->get_name();
  const auto words = app->remaining();
  if (words.empty()) throw ConfigError("{} needs one of: {}", path, join(known, ", "));
  const bool is_flag = words[0].starts_with("-");
  if (is_flag) known = flags_of(*app);
  throw ConfigError("{} has no {} \"{}\"{}; see: {} --help", path, is_flag ? "flag" : "command",
                    words[0], did_you_mean(words[0], known), path);
}

// What CLI11 did not know: settings of the recipe, or mistakes.
void Invocation::sort_out_remaining(const Command& command) const {
  std::string name = command.app->get_name();
  if (command.app->get_parent() != &root_) {
    name = command.app->get_parent()->get_name() + " " + name;
  }
  for (const std::string& argument : command.app->remaining()) {
    if (command.unknown != nullptr) {
      command.unknown->push_back(argument);
      continue;
    }
    if (is_override(argument) && command.overrides != nullptr) {
      if (argument.find('=') == argument.npos) {
        throw ConfigError("{} needs its value behind an equals sign: {}=VALUE", argument, argument);
      }
      command.overrides->push_back(argument.substr(2));
    } else if (argument.starts_with("-")) {
      const std::string flag = argument.substr(0, argument.find('='));
      throw ConfigError("outstep {} has no flag \"{}\"{}; see: outstep {} --help", name, flag,
                        did_you_mean(flag, flags_of(*command.app)), name);
    } else {
      throw ConfigError("outstep {} has no use for \"{}\"; see: outstep {} --help", name, argument,
                        name);
    }
  }
}

}  // namespace outstep::apps
