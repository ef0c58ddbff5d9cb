#pragma once

#include <toml++/toml.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/io/settings.h"
#include "outstep/io/toml_literal.h"

// What a Settings holds: the values of all files and overrides, merged, and what was asked for.

namespace outstep::io {

struct Settings::Data {
  struct Key {
    std::shared_ptr<const toml::node> node;
    std::string origin;
    int order = 0;                   // in which keys are complained about: the file's
    int source = 0;                  // a file or override, in the order they were read
    std::optional<std::string> raw;  // an override as it was typed
    bool used = false;
  };
  struct Table {
    std::string origin;
    int order = 0;
    std::map<std::string, Key> keys;
    int chosen_by = 0;  // the source that gave "name" another value than the sources before it
  };
  // One key that a getter asked for, as resolved() prints it.
  struct Asked {
    std::string key;
    std::string literal;
    std::string origin;
  };

  std::map<std::string, Table> tables;
  std::vector<std::pair<std::string, std::vector<Asked>>> asked;  // by section, in the order asked
  int num_read = 0;
  int num_sources = 0;

  // Values read later win. Files on the way here, outermost first, are in chain.
  void add_file(const std::filesystem::path& path, std::vector<std::filesystem::path> chain);
  void add_text(std::string_view text, const std::string& origin,
                const std::filesystem::path& folder,
                const std::vector<std::filesystem::path>& chain);
  void add_override(const std::string& text);

  void settle(const std::string& section, const std::string& key, const std::vector<int64_t>& value,
              const std::string& origin);

  // Whether nobody asked for it because an earlier file gave it to another choice.
  static bool is_of_former_choice(const Table& table, const Key& key) {
    return !key.used && !key.raw && key.source < table.chosen_by;
  }

  Key* find(const std::string& section, const std::string& key);
  std::vector<Asked>& asked_in(const std::string& section);
  std::vector<std::string> keys_asked_in(const std::string& section);
  // A section's "name", where a recipe says one and it was asked for; else null.
  const toml::node* choice_of(const std::string& section);
  void note(const std::string& section, const std::string& key, std::string literal,
            const std::string& origin);

  // The value of a key, converted by `convert` (which returns nothing for a wrong type), or
  // `otherwise`.
  template <typename T, typename Convert>
  T get(const std::string& section, const std::string& key, const T& otherwise, const char* wanted,
        Convert convert) {
    Key* found = find(section, key);
    T value = otherwise;
    if (found) {
      found->used = true;
      std::optional<T> converted = convert(*found->node);
      if constexpr (std::is_same_v<T, std::string>) {
        if (!converted) converted = found->raw;  // on a command line, 7 may be text
      }
      if (!converted) {
        throw ConfigError("{}: {}.{} must be {}, not {}", found->origin, section, key, wanted,
                          shown_value(*found->node));
      }
      value = *converted;
    }
    note(section, key, toml_literal(value), found ? found->origin : "default");
    return value;
  }

 private:
  Table& table(const std::string& name, const std::string& origin);
  void set(const std::string& section, const std::string& key, const toml::node& node,
           std::string origin, std::optional<std::string> raw = {});
  void add_base(const toml::node& base, const std::string& origin,
                const std::filesystem::path& folder,
                const std::vector<std::filesystem::path>& chain);
};

}  // namespace outstep::io
