#include "outstep/apps/progress_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace outstep::apps {
namespace {

constexpr int kCells = 20;

// A bar of kCells cells, filled to an eighth of a cell.
std::string cells(double fraction) {
  static constexpr std::array<const char*, 8> kEighths = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int eighths = static_cast<int>(std::floor(std::clamp(fraction, 0.0, 1.0) * kCells * 8));
  std::string bar;
  for (int cell = 0; cell < eighths / 8; ++cell) bar += "█";
  int used = eighths / 8;
  if (eighths % 8 != 0) {
    bar += kEighths[static_cast<size_t>(eighths % 8)];
    ++used;
  }
  return bar + std::string(static_cast<size_t>(kCells - used), ' ');
}

std::string step_rate(double steps_per_second) {
  if (!(steps_per_second > 0)) return "? step/s";
  if (steps_per_second < 1) return fmt::format("{:.3g} s/step", 1 / steps_per_second);
  return fmt::format("{:.{}f} step/s", steps_per_second, steps_per_second < 100 ? 1 : 0);
}

// What both forms end with: rates and, where something was there to hide, how much of it was
// hidden.
std::vector<std::string> rates(const train::Progress& progress) {
  std::vector<std::string> parts{step_rate(progress.steps_per_second)};
  if (progress.units_per_second > 0) {
    parts.push_back(compact_number(progress.units_per_second) + " " + rate_unit(progress.unit));
  }
  if (progress.overlap_fraction > 0) {
    parts.push_back(fmt::format("overlap {:.0f}%", 100 * progress.overlap_fraction));
  }
  return parts;
}

}  // namespace

std::string compact_number(double number) {
  const double size = std::abs(number);
  if (size < 999.5) return fmt::format("{:.{}f}", number, size < 10 ? 1 : 0);
  if (size < 999.5e3) return fmt::format("{:.{}f}k", number / 1e3, size < 99.95e3 ? 1 : 0);
  return fmt::format("{:.2f}M", number / 1e6);
}

std::string clock_time(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e8) return "??:??";
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) return fmt::format("{:02}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string rate_unit(const std::string& unit) {
  if (unit == "tokens") return "tok/s";
  if (unit == "images") return "img/s";
  return unit + "/s";
}

std::string cut_to_columns(const std::string& text, int columns) {
  int seen = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool starts_code_point = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    if (starts_code_point && seen++ == columns) return text.substr(0, i);
  }
  return text;
}

std::string progress_bar(const train::Progress& progress, double elapsed_seconds, int columns) {
  const double fraction =
      progress.steps > 0 ? static_cast<double>(progress.step) / static_cast<double>(progress.steps)
                         : 0;
  const double remaining =
      progress.steps_per_second > 0
          ? static_cast<double>(progress.steps - progress.step) / progress.steps_per_second
          : std::numeric_limits<double>::quiet_NaN();
  std::vector<std::string> parts = rates(progress);
  parts.insert(parts.begin() + 1, fmt::format("loss {:.3g}", progress.loss));
  const std::string line = fmt::format(
      "{:3.0f}%|{}| {}/{} [{}<{}, {}]", std::floor(100 * fraction), cells(fraction), progress.step,
      progress.steps, clock_time(elapsed_seconds), clock_time(remaining), fmt::join(parts, ", "));
  return cut_to_columns(line, columns);
}

std::string progress_text(const train::Progress& progress) {
  std::string line =
      fmt::format("step {}/{}  loss {:.4f}", progress.step, progress.steps, progress.loss);
  if (progress.validation_loss)
    line += fmt::format("  validation {:.4f}", *progress.validation_loss);
  line += fmt::format("  lr {:.2e}  grad {:.3g}", progress.lr, progress.grad_norm);
  return line + fmt::format("  {}", fmt::join(rates(progress), "  "));
}

}  // namespace outstep::apps
