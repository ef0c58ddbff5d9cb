#include "outstep/base/text.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>

#include "outstep/base/errors.h"

namespace outstep {

namespace {

// Edits (insert, delete, replace, swap of neighbours) that turn a into b: Damerau-Levenshtein,
// restricted form.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool equal = a[i - 1] == b[j - 1];
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (equal ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

std::string nearest_spelling(std::string_view word, std::span<const std::string> candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string with_commas(int64_t number) {
  std::string digits = std::to_string(number);
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > (number < 0 ? 1 : 0); at -= 3) {
    digits.insert(static_cast<size_t>(at), 1, ',');
  }
  return digits;
}

std::string human_bytes(int64_t num_bytes) {
  double value = static_cast<double>(num_bytes);
  const char* units[] = {"bytes", "kB", "MB", "GB", "TB", "PB"};
  int unit = 0;
  while (std::abs(value) >= 999.5 && unit < 5) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} bytes", num_bytes);
  return fmt::format("{:.{}f} {}", value, std::abs(value) < 99.95 ? 1 : 0, units[unit]);
}

std::string human_seconds(double seconds) {
  if (!(std::abs(seconds) < 1e15)) return fmt::format("{} s", seconds);  // endless, or not a number
  if (0 < seconds && seconds < 0.01) return fmt::format("{:.2g} ms", 1000 * seconds);
  if (seconds < 59.5) return fmt::format("{:.{}f} s", seconds, seconds < 9.995 ? 2 : 1);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {:02d} s", whole / 60, whole % 60);
  const int64_t minutes = (whole + 30) / 60;
  return fmt::format("{} h {:02d} min", minutes / 60, minutes % 60);
}

double parse_bits_per_second(const std::string& text) {
  struct Unit {
    const char* name;
    double bits;
  };
  static constexpr Unit kUnits[] = {{"bit", 1},   {"kbit", 1e3},   {"mbit", 1e6},   {"gbit", 1e9},
                                    {"bit/s", 1}, {"kbit/s", 1e3}, {"mbit/s", 1e6}, {"gbit/s", 1e9},
                                    {"b/s", 8},   {"kb/s", 8e3},   {"mb/s", 8e6},   {"gb/s", 8e9}};
  const char* begin = text.c_str();
  char* end = nullptr;
  const double number = std::strtod(begin, &end);
  std::string unit(end);
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  if (end != begin && std::isfinite(number) && number > 0) {
    for (const Unit& known : kUnits) {
      if (unit == known.name) return number * known.bits;
    }
  }
  throw ConfigError("\"{}\" is no link rate; write it as 200mbit, 10gbit or 25MB/s", text);
}

size_t character_length(std::string_view text, size_t at) {
  const auto byte_at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte_at(at);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || length > text.size() - at) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte_at(at + i) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = byte_at(at + 1);
  const bool is_overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  const bool is_surrogate = lead == 0xED && second > 0x9F;
  const bool is_too_large = lead == 0xF4 && second > 0x8F;
  return is_overlong || is_surrogate || is_too_large ? 0 : length;
}

std::string shown(std::string_view text) {
  constexpr size_t kMostShown = 80;
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const size_t length = character_length(text, i);
    if (i + length > kMostShown) return out + "…\"";
    const auto byte = static_cast<unsigned char>(text[i]);
    if (length == 0) {
      out += fmt::format("\\x{:02x}", byte);
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += text.substr(i, length);
    }
    i += std::max<size_t>(length, 1);
  }
  return out + "\"";
}

std::string join(const std::vector<std::string>& words, const std::string& separator) {
  std::string all;
  for (const std::string& word : words) {
    if (&word != words.data()) all += separator;
    all += word;
  }
  return all;
}

}  // namespace outstep
