#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json_fwd.hpp>

// One JSON object a line, flushed at each line, so that a killed run keeps all lines but the one
// being written.

namespace outstep::io {

class JsonLines {
 public:
  // Appends to the file. A last line without its line feed (the writer was killed) is cut off
  // first.
  explicit JsonLines(const std::filesystem::path& path);
  void write(const nlohmann::ordered_json& line);

 private:
  std::filesystem::path path_;
  std::ofstream stream_;
};

}  // namespace outstep::io
