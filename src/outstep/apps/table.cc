#include "outstep/apps/table.h"

#include <algorithm>
#include <cctype>

namespace outstep::apps {
namespace {

bool is_number_like(const std::string& cell) {
  return cell.empty() || cell == "-" || std::isdigit(static_cast<unsigned char>(cell[0])) != 0 ||
         ((cell[0] == '-' || cell[0] == '+') && cell.size() > 1 &&
          std::isdigit(static_cast<unsigned char>(cell[1])) != 0);
}

}  // namespace

size_t count_columns(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string Table::text() const {
  std::vector<std::vector<std::string>> lines = rows;
  std::vector<size_t> widths;
  std::vector<bool> right;
  for (const auto& row : rows) {
    for (size_t column = 0; column < row.size(); ++column) {
      if (column == right.size()) right.push_back(true);
      right[column] = right[column] && is_number_like(row[column]);
    }
  }
  if (!header.empty()) lines.insert(lines.begin(), header);
  right.resize(std::max(right.size(), header.size()), false);
  for (const auto& row : lines) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (size_t column = 0; column < row.size(); ++column) {
      widths[column] = std::max(widths[column], count_columns(row[column]));
    }
  }
  std::string text;
  for (const auto& row : lines) {
    std::string line;
    for (size_t column = 0; column < row.size(); ++column) {
      const std::string padding(widths[column] - count_columns(row[column]), ' ');
      if (column > 0) line += "  ";
      line += right[column] ? padding + row[column] : row[column] + padding;
    }
    text += line.erase(line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

}  // namespace outstep::apps
