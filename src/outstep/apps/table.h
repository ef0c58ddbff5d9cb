#pragma once

#include <string>
#include <vector>

namespace outstep::apps {

// Cells in aligned columns, two blanks apart. Columns of numbers align right, others left.
//
//   Table table{.header = {"part", "median"}};
//   table.rows.push_back({"forward", "12.3 ms"});
//   screen.write(table.text());
struct Table {
  std::vector<std::string> header;  // empty: none
  std::vector<std::vector<std::string>> rows;

  std::string text() const;  // ends with a line feed
};

// Columns that text takes on a terminal: its code points.
size_t count_columns(const std::string& text);

}  // namespace outstep::apps
