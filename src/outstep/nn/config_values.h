#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "outstep/base/errors.h"

// Reads values of a config.json, which may come from anywhere: each is checked, and errors name the
// file and the key.

namespace outstep::nn {

class ConfigValues {
 public:
  static constexpr int64_t kMaxSize = int64_t{1} << 24;  // of any one size of a model

  // Borrows both. Throws DataError unless config is an object.
  ConfigValues(const nlohmann::ordered_json& config, const std::string& origin)
      : config_(config), origin_(origin) {
    if (!config.is_object()) throw DataError("{}: not a JSON object", origin);
  }

  // Missing and null give `otherwise`. T: bool, int64_t, double or std::string.
  template <typename T>
  T get(const std::string& key, T otherwise) const {
    const auto found = config_.find(key);
    if (found == config_.end() || found->is_null()) return otherwise;
    const bool fits = std::is_same_v<T, bool>          ? found->is_boolean()
                      : std::is_same_v<T, std::string> ? found->is_string()
                      : std::is_integral_v<T>          ? found->is_number_integer()
                                                       : found->is_number();
    if (!fits)
      throw DataError("{}: \"{}\" is {}, which is of the wrong type", origin_, key, found->dump());
    return found->get<T>();
  }
  int64_t size(const std::string& key, int64_t otherwise) const {
    const auto value = get<int64_t>(key, otherwise);
    if (value < 1 || value > kMaxSize)
      throw DataError("{}: \"{}\" is {}, which is no size", origin_, key, value);
    return value;
  }
  std::vector<int64_t> sizes(const std::string& key, const std::vector<int64_t>& otherwise) const {
    const auto found = config_.find(key);
    if (found == config_.end()) return otherwise;
    std::vector<int64_t> result;
    for (const auto& element : *found) {
      const bool fits = found->is_array() && element.is_number_integer();
      if (!fits || element.get<int64_t>() < 1 || element.get<int64_t>() > kMaxSize) {
        throw DataError("{}: \"{}\" is {}, expected a list of sizes", origin_, key, found->dump());
      }
      result.push_back(element.get<int64_t>());
    }
    return result;
  }
  std::vector<std::string> texts(const std::string& key,
                                 const std::vector<std::string>& otherwise) const {
    const auto found = config_.find(key);
    if (found == config_.end()) return otherwise;
    std::vector<std::string> result;
    for (const auto& element : *found) {
      if (!found->is_array() || !element.is_string()) {
        throw DataError("{}: \"{}\" is {}, expected a list of texts", origin_, key, found->dump());
      }
      result.push_back(element.get<std::string>());
    }
    return result;
  }
  // T: int64_t or std::string.
  template <typename T>
  T one_of(const std::string& key, T otherwise, const std::vector<T>& choices) const {
    const T value = get<T>(key, otherwise);
    if (std::ranges::find(choices, value) != choices.end()) return value;
    const auto quoted = [](const T& choice) { return nlohmann::json(choice).dump(); };
    std::string listed;
    for (size_t i = 0; i < choices.size(); ++i) {
      listed += i == 0 ? "" : i + 1 < choices.size() ? ", " : " or ";
      listed += quoted(choices[i]);
    }
    throw DataError("{}: \"{}\" is {}, expected {}", origin_, key, quoted(value), listed);
  }
  // In [0, below).
  double number_below(const std::string& key, double otherwise, double below) const {
    const auto value = get<double>(key, otherwise);
    if (!(value >= 0 && value < below)) {
      throw DataError("{}: \"{}\" is {}, which is not in [0, {})", origin_, key, value, below);
    }
    return value;
  }
  const std::string& origin() const { return origin_; }

 private:
  const nlohmann::ordered_json& config_;
  const std::string& origin_;
};

}  // namespace outstep::nn
