#include "outstep/io/settings.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/io/files.h"

namespace outstep::io {

namespace {

constexpr int kMaxBases = 16;

// One key that a getter asked for, as it will be printed.
struct Asked {
  std::string key;
  std::string literal;
  std::string origin;
};

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      out += fmt::format("\\u{:04X}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

// Shortest text that reads back as the same double, and as a float rather than an integer.
std::string literal(double value) {
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  if (std::isnan(value)) return "nan";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}
std::string literal(int64_t value) { return std::to_string(value); }
std::string literal(bool value) { return value ? "true" : "false"; }
std::string literal(const std::string& value) { return quoted(value); }
template <typename T>
std::string literal(const std::vector<T>& values) {
  std::vector<std::string> items;
  for (const T& value : values) items.push_back(literal(value));
  return "[" + join(items, ", ") + "]";
}

const char* kind_of(const toml::node& node) {
  if (node.is_string()) return "text";
  if (node.is_integer()) return "a whole number";
  if (node.is_floating_point()) return "a number";
  if (node.is_boolean()) return "true or false";
  if (node.is_array()) return "a list";
  if (node.is_table()) return "a table";
  return "a date or time";
}

std::string at_line(const std::string& file, const toml::source_region& region) {
  return fmt::format("{}:{}:{}", file, region.begin.line, region.begin.column);
}

toml::table parse(std::string_view text, const std::string& origin) {
  try {
    return toml::parse(text, origin);
  } catch (const toml::parse_error& error) {
    throw ConfigError("{}: {}", at_line(origin, error.source()), error.description());
  }
}

}  // namespace

struct Settings::Data {
  struct Key {
    std::shared_ptr<toml::node> node;
    std::string origin;
    int order = 0;  // in which keys are complained about: the file's
    bool used = false;
  };
  std::map<std::string, std::map<std::string, Key>> sections;
  std::vector<std::pair<std::string, std::vector<Asked>>> asked;  // by section, in the order asked
  int num_keys = 0;

  void set(const std::string& section, const std::string& key, const toml::node& node,
           std::string origin) {
    std::shared_ptr<toml::node> copy =
        node.visit([](const auto& typed) -> std::shared_ptr<toml::node> {
          using Node = std::remove_cvref_t<decltype(typed)>;
          return std::make_shared<Node>(typed);
        });
    sections[section][key] = {std::move(copy), std::move(origin), num_keys++, false};
  }

  // The file's keys over those of its base, recursively.
  void add_table(const toml::table& table, const std::string& origin,
                 const std::filesystem::path& folder, int depth) {
    if (depth > kMaxBases) {
      throw ConfigError("{}: more than {} bases, or a base that leads back to itself", origin,
                        kMaxBases);
    }
    if (const toml::node* base = table.get("base")) {
      const auto name = base->value<std::string>();
      if (!name)
        throw ConfigError("{}: base must be text, the path of another recipe",
                          at_line(origin, base->source()));
      const std::filesystem::path path = folder / *name;
      if (!std::filesystem::exists(path)) {
        throw ConfigError("{}: base \"{}\" does not exist (looked for {})",
                          at_line(origin, base->source()), *name, path.string());
      }
      add_file(path, depth + 1);
    }
    for (const auto& [name, node] : table) {
      if (name.str() == "base") continue;
      const toml::table* section = node.as_table();
      if (!section) {
        throw ConfigError(
            "{}: \"{}\" stands outside any section; write it under one, such as [train]",
            at_line(origin, name.source()), name.str());
      }
      for (const auto& [key, value] : *section) {
        set(std::string(name.str()), std::string(key.str()), value, at_line(origin, key.source()));
      }
    }
  }

  void add_file(const std::filesystem::path& path, int depth) {
    std::string text;
    try {
      text = read_text(path);
    } catch (const DataError& error) {
      throw ConfigError("recipe {}", error.what());
    }
    add_table(parse(text, path.string()), path.string(), path.parent_path(), depth);
  }

  void add_override(const std::string& text) {
    const size_t equals = text.find('=');
    const size_t dot = text.find('.');
    if (equals == std::string::npos || dot == std::string::npos || dot == 0 || dot + 1 >= equals) {
      throw ConfigError("override \"{}\" is not of the form section.key=value", text);
    }
    const std::string section = text.substr(0, dot);
    const std::string key = text.substr(dot + 1, equals - dot - 1);
    const std::string value = text.substr(equals + 1);
    const std::string origin = "--" + section + "." + key;
    toml::table table;
    try {
      table = toml::parse("value = " + value);
    } catch (const toml::parse_error&) {  // a bare word
      table = toml::table{{"value", value}};
    }
    if (table.size() != 1 || !table.contains("value")) table = toml::table{{"value", value}};
    set(section, key, *table.get("value"), origin);
  }

  Key* find(const std::string& section, const std::string& key) {
    const auto found = sections.find(section);
    if (found == sections.end()) return nullptr;
    const auto value = found->second.find(key);
    return value == found->second.end() ? nullptr : &value->second;
  }

  std::vector<Asked>& asked_in(const std::string& section) {
    for (auto& [name, keys] : asked) {
      if (name == section) return keys;
    }
    return asked.emplace_back(section, std::vector<Asked>{}).second;
  }

  void note(const std::string& section, const std::string& key, std::string text,
            const std::string& origin) {
    std::vector<Asked>& keys = asked_in(section);
    const auto same =
        std::find_if(keys.begin(), keys.end(), [&](const Asked& a) { return a.key == key; });
    if (same == keys.end()) {
      keys.push_back({key, std::move(text), origin});
    } else {
      *same = {key, std::move(text), origin};
    }
  }

  // The value of a key, converted by `convert` (which returns nothing for a wrong type), or
  // `otherwise`.
  template <typename T, typename Convert>
  T get(const std::string& section, const std::string& key, const T& otherwise, const char* wanted,
        Convert convert) {
    Key* found = find(section, key);
    T value = otherwise;
    if (found) {
      found->used = true;
      const std::optional<T> converted = convert(*found->node);
      if (!converted) {
        throw ConfigError("{}: {}.{} must be {}, not {}", found->origin, section, key, wanted,
                          kind_of(*found->node));
      }
      value = *converted;
    }
    note(section, key, literal(value), found ? found->origin : "default");
    return value;
  }
};

namespace {

std::optional<int64_t> to_integer(const toml::node& node) {
  return node.is_integer() ? node.value<int64_t>() : std::nullopt;
}
std::optional<double> to_number(const toml::node& node) {
  if (node.is_integer()) return static_cast<double>(*node.value<int64_t>());
  return node.is_floating_point() ? node.value<double>() : std::nullopt;
}
std::optional<std::string> to_text(const toml::node& node) {
  return node.is_string() ? node.value<std::string>() : std::nullopt;
}
template <typename T, typename Item>
std::optional<std::vector<T>> to_list(const toml::node& node, Item item) {
  const toml::array* array = node.as_array();
  if (!array) return std::nullopt;
  std::vector<T> values;
  for (const toml::node& element : *array) {
    const std::optional<T> value = item(element);
    if (!value) return std::nullopt;
    values.push_back(*value);
  }
  return values;
}

// "at least 1", "more than 0 and at most 1", "at most 5"
template <typename Bounds>
std::string range_words(const Bounds& bounds, bool excludes_min) {
  const Bounds open;
  const std::string low = fmt::format("{} {}", excludes_min ? "more than" : "at least", bounds.min);
  const std::string high = fmt::format("at most {}", bounds.max);
  if (bounds.max == open.max) return low;
  return bounds.min == open.min ? high : low + " and " + high;
}

void require_within(int64_t value, const IntegerBounds& bounds, const std::string& origin,
                    const std::string& name) {
  if (value >= bounds.min && value <= bounds.max) return;
  throw ConfigError("{}: {} is {}, it must be {}", origin, name, value, range_words(bounds, false));
}

void require_within(double value, const NumberBounds& bounds, const std::string& origin,
                    const std::string& name) {
  if (std::isnan(value)) throw ConfigError("{}: {} is not a number (nan)", origin, name);
  const bool above = bounds.excludes_min ? value > bounds.min : value >= bounds.min;
  if (above && value <= bounds.max) return;
  throw ConfigError("{}: {} is {}, it must be {}", origin, name, value,
                    range_words(bounds, bounds.excludes_min));
}

}  // namespace

bool Section::has(const std::string& key) const {
  return settings_->data_->find(name_, key) != nullptr;
}

std::string Section::origin(const std::string& key) const {
  const auto* found = settings_->data_->find(name_, key);
  return found ? found->origin : "default";
}

bool Section::flag(const std::string& key, bool otherwise) {
  return settings_->data_->get<bool>(
      name_, key, otherwise, "true or false",
      [](const toml::node& node) { return node.is_boolean() ? node.value<bool>() : std::nullopt; });
}

int64_t Section::integer(const std::string& key, int64_t otherwise, IntegerBounds bounds) {
  const int64_t value =
      settings_->data_->get<int64_t>(name_, key, otherwise, "a whole number", to_integer);
  if (has(key)) require_within(value, bounds, origin(key), name_ + "." + key);
  return value;
}

double Section::number(const std::string& key, double otherwise, NumberBounds bounds) {
  const double value = settings_->data_->get<double>(name_, key, otherwise, "a number", to_number);
  if (has(key)) require_within(value, bounds, origin(key), name_ + "." + key);
  return value;
}

std::string Section::text(const std::string& key, const std::string& otherwise, TextBounds bounds) {
  const std::string value =
      settings_->data_->get<std::string>(name_, key, otherwise, "text", to_text);
  const auto& choices = bounds.choices;
  if (has(key) && !choices.empty() &&
      std::find(choices.begin(), choices.end(), value) == choices.end()) {
    const std::string nearest = nearest_spelling(value, choices);
    throw ConfigError("{}: {}.{} is \"{}\", it must be one of: {}{}", origin(key), name_, key,
                      value, join(choices, ", "),
                      nearest.empty() ? "" : fmt::format("; did you mean \"{}\"?", nearest));
  }
  return value;
}

std::vector<int64_t> Section::integers(const std::string& key,
                                       const std::vector<int64_t>& otherwise,
                                       IntegerBounds bounds) {
  auto values = settings_->data_->get<std::vector<int64_t>>(
      name_, key, otherwise, "a list of whole numbers",
      [](const toml::node& node) { return to_list<int64_t>(node, to_integer); });
  if (!has(key)) return values;
  for (const int64_t value : values) {
    require_within(value, bounds, origin(key), "a number of " + name_ + "." + key);
  }
  return values;
}

std::vector<double> Section::numbers(const std::string& key, const std::vector<double>& otherwise,
                                     NumberBounds bounds) {
  auto values = settings_->data_->get<std::vector<double>>(
      name_, key, otherwise, "a list of numbers",
      [](const toml::node& node) { return to_list<double>(node, to_number); });
  if (!has(key)) return values;
  for (const double value : values) {
    require_within(value, bounds, origin(key), "a number of " + name_ + "." + key);
  }
  return values;
}

std::vector<std::string> Section::texts(const std::string& key,
                                        const std::vector<std::string>& otherwise) {
  return settings_->data_->get<std::vector<std::string>>(
      name_, key, otherwise, "a list of texts",
      [](const toml::node& node) { return to_list<std::string>(node, to_text); });
}

Settings::Settings(std::unique_ptr<Data> data) : data_(std::move(data)) {}
Settings::~Settings() = default;
Settings::Settings(Settings&&) noexcept = default;
Settings& Settings::operator=(Settings&&) noexcept = default;

Settings Settings::from_file(const std::filesystem::path& path,
                             const std::vector<std::string>& overrides) {
  auto data = std::make_unique<Data>();
  data->add_file(path, 0);
  for (const std::string& text : overrides) data->add_override(text);
  return Settings(std::move(data));
}

Settings Settings::from_text(std::string_view toml, const std::string& origin,
                             const std::vector<std::string>& overrides) {
  auto data = std::make_unique<Data>();
  data->add_table(parse(toml, origin), origin, ".", 0);
  for (const std::string& text : overrides) data->add_override(text);
  return Settings(std::move(data));
}

Section Settings::section(const std::string& name) {
  data_->asked_in(name);
  return Section(this, name);
}

void Settings::require_all_used() const {
  const Data::Key* first = nullptr;
  std::string section;
  std::string key;
  for (const auto& [section_name, keys] : data_->sections) {
    for (const auto& [key_name, value] : keys) {
      if (value.used || (first && first->order < value.order)) continue;
      first = &value;
      section = section_name;
      key = key_name;
    }
  }
  if (!first) return;

  std::vector<std::string> sections;
  std::vector<std::string> keys;
  for (const auto& [name, asked] : data_->asked) {
    sections.push_back(name);
    if (name != section) continue;
    for (const Asked& known : asked) keys.push_back(known.key);
  }
  const bool is_known_section =
      std::find(sections.begin(), sections.end(), section) != sections.end();
  if (!is_known_section) {
    const std::string nearest = nearest_spelling(section, sections);
    throw ConfigError("{}: unknown section [{}]; {}", first->origin, section,
                      nearest.empty() ? "known are: " + join(sections, ", ")
                                      : fmt::format("did you mean [{}]?", nearest));
  }
  const std::string nearest = nearest_spelling(key, keys);
  throw ConfigError("{}: unknown key \"{}\" in [{}]; {}", first->origin, key, section,
                    nearest.empty() ? "known are: " + join(keys, ", ")
                                    : fmt::format("did you mean \"{}\"?", nearest));
}

std::string Settings::resolved() const {
  std::string out;
  for (const auto& [section, keys] : data_->asked) {
    if (keys.empty()) continue;
    out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", section);
    for (const Asked& asked : keys) {
      out += fmt::format("{} = {}  # {}\n", asked.key, asked.literal, asked.origin);
    }
  }
  return out;
}

}  // namespace outstep::io
