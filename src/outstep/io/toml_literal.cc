#include "outstep/io/toml_literal.h"

#include <cmath>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"

namespace outstep::io {

namespace {

template <typename T>
std::string list_literal(const std::vector<T>& values) {
  std::vector<std::string> items;
  for (const T& value : values) items.push_back(toml_literal(value));
  return "[" + join(items, ", ") + "]";
}

}  // namespace

std::string toml_literal(bool value) { return value ? "true" : "false"; }

std::string toml_literal(int64_t value) { return std::to_string(value); }

std::string toml_literal(double value) {
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  if (std::isnan(value)) return "nan";
  std::string text = fmt::format("{}", value);
  // A float must not read back as an integer.
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string toml_literal(const std::string& value) {
  std::string out = "\"";
  for (const char c : value) {
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

std::string toml_literal(const std::vector<int64_t>& values) { return list_literal(values); }
std::string toml_literal(const std::vector<double>& values) { return list_literal(values); }
std::string toml_literal(const std::vector<std::string>& values) { return list_literal(values); }

std::string shown_value(const toml::node& node) {
  constexpr size_t kMaxShown = 60;
  std::string text;
  if (node.is_string()) {
    text = toml_literal(*node.value<std::string>());
  } else if (node.is_integer()) {
    text = toml_literal(*node.value<int64_t>());
  } else if (node.is_floating_point()) {
    text = toml_literal(*node.value<double>());
  } else if (node.is_boolean()) {
    text = toml_literal(*node.value<bool>());
  } else if (const toml::array* array = node.as_array()) {
    std::vector<std::string> items;
    for (const toml::node& item : *array) items.push_back(shown_value(item));
    text = "[" + join(items, ", ") + "]";
  } else {
    text = node.is_table() ? "a table" : "a date or time";
  }
  return text.size() <= kMaxShown ? text : text.substr(0, kMaxShown) + "…";
}

}  // namespace outstep::io
