#pragma once

#include <toml++/toml.h>

#include <cstdint>
#include <string>
#include <vector>

// Values as TOML, and as an error message shows them.

namespace outstep::io {

// Each reads back as the same value; doubles are the shortest text that does.
std::string toml_literal(bool value);
std::string toml_literal(int64_t value);
std::string toml_literal(double value);
std::string toml_literal(const std::string& value);
std::string toml_literal(const std::vector<int64_t>& values);
std::string toml_literal(const std::vector<double>& values);
std::string toml_literal(const std::vector<std::string>& values);

// For a person: "ten", 1.5, [1, "a"], a table, a date; long ones are cut.
std::string shown_value(const toml::node& node);

}  // namespace outstep::io
