#include "outstep/io/settings.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/io/settings_data.h"

namespace outstep::io {

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

// "did you mean [sync]?", or what there is.
std::string hint(const std::string& word, const std::vector<std::string>& known, const char* open,
                 const char* close) {
  const std::string nearest = nearest_spelling(word, known);
  if (!nearest.empty()) return fmt::format("did you mean {}{}{}?", open, nearest, close);
  return known.empty() ? "none is known" : "known are: " + join(known, ", ");
}

// What stands behind an unknown key's origin. A key that is no misspelling may be one of another
// choice of the section's: what was chosen is said with it.
std::string unknown_key(const std::string& key, const std::string& section,
                        const std::vector<std::string>& known, const toml::node* choice) {
  std::string of_choice;
  if (choice != nullptr && nearest_spelling(key, known).empty()) {
    of_choice = " with name = " + shown_value(*choice);
  }
  return fmt::format("unknown key \"{}\" in [{}]{}; {}", key, section, of_choice,
                     hint(key, known, "\"", "\""));
}

// A file's name may hold any byte: a line feed would end the comment, what is not UTF-8 the
// reading.
std::string in_comment(std::string origin) {
  for (size_t i = 0; i < origin.size();) {
    const size_t length = character_length(origin, i);
    const auto byte = static_cast<unsigned char>(origin[i]);
    if (length == 0 || byte < 0x20 || byte == 0x7F) origin[i] = '?';
    i += std::max<size_t>(length, 1);
  }
  return origin;
}

}  // namespace

bool Section::has(const std::string& key) const {
  return settings_->data_->find(name_, key) != nullptr;
}

std::string Section::origin(const std::string& key) const {
  const auto* found = settings_->data_->find(name_, key);
  return found ? found->origin : "default";
}

bool Section::is_text(const std::string& key) const {
  const auto* found = settings_->data_->find(name_, key);
  return found && found->node->is_string();
}

void Section::settle(const std::string& key, const std::vector<int64_t>& value,
                     const std::string& origin) {
  settings_->data_->settle(name_, key, value, origin);
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
  data->add_file(path, {});
  for (const std::string& text : overrides) data->add_override(text);
  return Settings(std::move(data));
}

Settings Settings::from_text(std::string_view toml, const std::string& origin,
                             const std::vector<std::string>& overrides) {
  auto data = std::make_unique<Data>();
  data->add_text(toml, origin, ".", {});
  for (const std::string& text : overrides) data->add_override(text);
  return Settings(std::move(data));
}

Section Settings::section(const std::string& name) {
  data_->asked_in(name);
  return Section(this, name);
}

void Settings::require_all_used() const {
  std::vector<std::string> sections;
  for (const auto& [name, asked] : data_->asked) sections.push_back(name);

  // What is unknown and read first: a key ("" for its whole section) of a section.
  int first = std::numeric_limits<int>::max();
  std::string section;
  std::string key;
  for (const auto& [name, table] : data_->tables) {
    const bool is_known = std::find(sections.begin(), sections.end(), name) != sections.end();
    if (!is_known && table.order < first) {
      first = table.order;
      section = name;
      key.clear();
    }
    for (const auto& [key_name, value] : table.keys) {
      if (!is_known || value.used || value.order > first) continue;
      if (Data::is_of_former_choice(table, value)) continue;
      first = value.order;
      section = name;
      key = key_name;
    }
  }
  if (first == std::numeric_limits<int>::max()) return;

  const Data::Table& table = data_->tables.at(section);
  if (std::find(sections.begin(), sections.end(), section) == sections.end()) {
    throw ConfigError("{}: unknown section [{}]; {}", table.origin, section,
                      hint(section, sections, "[", "]"));
  }
  throw ConfigError(
      "{}: {}", table.keys.at(key).origin,
      unknown_key(key, section, data_->keys_asked_in(section), data_->choice_of(section)));
}

void Settings::require_overrides_used() const {
  for (const auto& [section, table] : data_->tables) {
    for (const auto& [key, value] : table.keys) {
      if (!value.raw || value.used) continue;
      throw ConfigError(
          "{}: {}", value.origin,
          unknown_key(key, section, data_->keys_asked_in(section), data_->choice_of(section)));
    }
  }
}

std::string Settings::resolved() const {
  std::string out;
  for (const auto& [section, keys] : data_->asked) {
    if (keys.empty()) continue;
    out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", section);
    for (const Data::Asked& asked : keys) {
      out += fmt::format("{} = {}  # {}\n", asked.key, asked.literal, in_comment(asked.origin));
    }
  }
  return out;
}

}  // namespace outstep::io
