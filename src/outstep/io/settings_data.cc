#include "outstep/io/settings_data.h"

#include <algorithm>

#include "outstep/base/text.h"
#include "outstep/io/files.h"

namespace outstep::io {

namespace {

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

// A table's entries as they stand in the file; toml++ sorts them by name.
std::vector<std::pair<const toml::key*, const toml::node*>> in_file_order(
    const toml::table& table) {
  std::vector<std::pair<const toml::key*, const toml::node*>> entries;
  for (const auto& [key, node] : table) entries.emplace_back(&key, &node);
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return a.first->source().begin < b.first->source().begin;
  });
  return entries;
}

// The value of an override as TOML; what is no TOML value, such as a bare word, is text.
toml::table parse_value(const std::string& value, const std::string& origin) {
  try {
    toml::table table = toml::parse("value = " + value);
    // A value that goes on in a second line could smuggle in other keys.
    if (table.size() == 1 && table.contains("value")) return table;
  } catch (const toml::parse_error&) {
  }
  return parse("value = " + toml_literal(value), origin);  // fails only on bytes that are not UTF-8
}

}  // namespace

Settings::Data::Table& Settings::Data::table(const std::string& name, const std::string& origin) {
  const auto [found, is_new] = tables.try_emplace(name);
  if (is_new) {
    found->second.origin = origin;
    found->second.order = num_read++;
  }
  return found->second;
}

void Settings::Data::set(const std::string& section, const std::string& key, const toml::node& node,
                         std::string origin, std::optional<std::string> raw) {
  std::shared_ptr<const toml::node> copy =
      node.visit([](const auto& typed) -> std::shared_ptr<const toml::node> {
        using Node = std::remove_cvref_t<decltype(typed)>;
        return std::make_shared<Node>(typed);
      });
  Table& owner = table(section, origin);
  const auto former = owner.keys.find(key);
  if (key == "name" && former != owner.keys.end() &&
      shown_value(*former->second.node) != shown_value(*copy)) {
    owner.chosen_by = num_sources;
  }
  owner.keys[key] = {.node = std::move(copy),
                     .origin = std::move(origin),
                     .order = num_read++,
                     .source = num_sources,
                     .raw = std::move(raw)};
}

void Settings::Data::settle(const std::string& section, const std::string& key,
                            const std::vector<int64_t>& value, const std::string& origin) {
  toml::array list;
  for (const int64_t element : value) list.push_back(element);
  set(section, key, list, origin);
}

void Settings::Data::add_file(const std::filesystem::path& path,
                              std::vector<std::filesystem::path> chain) {
  std::error_code error;
  const std::filesystem::path canonical = std::filesystem::weakly_canonical(path, error);
  chain.push_back(error ? path : canonical);
  if (std::find(chain.begin(), chain.end() - 1, chain.back()) != chain.end() - 1) {
    std::vector<std::string> names;
    for (const auto& file : chain) names.push_back(file.filename().string());
    throw ConfigError("{}: its base leads back to itself: {}", path.string(), join(names, " -> "));
  }
  std::string text;
  try {
    text = read_text(path);
  } catch (const DataError& data_error) {
    throw ConfigError("recipe {}", data_error.what());
  }
  add_text(text, path.string(), path.parent_path(), chain);
}

void Settings::Data::add_text(std::string_view text, const std::string& origin,
                              const std::filesystem::path& folder,
                              const std::vector<std::filesystem::path>& chain) {
  const toml::table root = parse(text, origin);
  if (const toml::node* base = root.get("base")) add_base(*base, origin, folder, chain);
  ++num_sources;
  for (const auto& [name, node] : in_file_order(root)) {
    if (name->str() == "base") continue;
    const toml::table* section = node->as_table();
    if (!section) {
      throw ConfigError(
          "{}: \"{}\" stands outside any section; write it under one, such as [train]",
          at_line(origin, name->source()), name->str());
    }
    table(std::string(name->str()), at_line(origin, section->source()));
    for (const auto& [key, value] : in_file_order(*section)) {
      set(std::string(name->str()), std::string(key->str()), *value,
          at_line(origin, key->source()));
    }
  }
}

void Settings::Data::add_base(const toml::node& base, const std::string& origin,
                              const std::filesystem::path& folder,
                              const std::vector<std::filesystem::path>& chain) {
  if (!base.is_string()) {
    throw ConfigError("{}: base must be text, the path of another recipe, not {}",
                      at_line(origin, base.source()), shown_value(base));
  }
  const std::string name = *base.value<std::string>();
  const std::filesystem::path path = folder / name;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    throw ConfigError("{}: base \"{}\" does not exist (looked for {})",
                      at_line(origin, base.source()), name, path.string());
  }
  add_file(path, chain);
}

void Settings::Data::add_override(const std::string& text) {
  const size_t equals = text.find('=');
  const size_t dot = text.find('.');
  if (equals == std::string::npos || dot == std::string::npos || dot == 0 || dot + 1 >= equals) {
    throw ConfigError("override \"{}\" is not of the form section.key=value", text);
  }
  const std::string section = text.substr(0, dot);
  const std::string key = text.substr(dot + 1, equals - dot - 1);
  const std::string value = text.substr(equals + 1);
  const std::string origin = "--" + section + "." + key;
  const toml::table parsed = parse_value(value, origin);
  ++num_sources;
  set(section, key, *parsed.get("value"), origin, value);
}

Settings::Data::Key* Settings::Data::find(const std::string& section, const std::string& key) {
  const auto found = tables.find(section);
  if (found == tables.end()) return nullptr;
  const auto value = found->second.keys.find(key);
  return value == found->second.keys.end() ? nullptr : &value->second;
}

std::vector<Settings::Data::Asked>& Settings::Data::asked_in(const std::string& section) {
  for (auto& [name, keys] : asked) {
    if (name == section) return keys;
  }
  return asked.emplace_back(section, std::vector<Asked>{}).second;
}

std::vector<std::string> Settings::Data::keys_asked_in(const std::string& section) {
  std::vector<std::string> keys;
  for (const Asked& known : asked_in(section)) keys.push_back(known.key);
  return keys;
}

const toml::node* Settings::Data::choice_of(const std::string& section) {
  const Key* name = find(section, "name");
  return name != nullptr && name->used ? name->node.get() : nullptr;
}

void Settings::Data::note(const std::string& section, const std::string& key, std::string literal,
                          const std::string& origin) {
  std::vector<Asked>& keys = asked_in(section);
  const auto same =
      std::find_if(keys.begin(), keys.end(), [&](const Asked& a) { return a.key == key; });
  Asked now{key, std::move(literal), origin};
  if (same == keys.end()) {
    keys.push_back(std::move(now));
  } else {
    *same = std::move(now);
  }
}

}  // namespace outstep::io
