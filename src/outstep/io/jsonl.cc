#include "outstep/io/jsonl.h"

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/io/files.h"

namespace outstep::io {

JsonLines::JsonLines(const std::filesystem::path& path) : path_(path) {
  if (std::filesystem::exists(path)) {
    const std::string text = read_text(path);
    const size_t last = text.rfind('\n');
    std::filesystem::resize_file(path, last == std::string::npos ? 0 : last + 1);
  }
  stream_.open(path, std::ios::app | std::ios::binary);
  if (!stream_) throw DataError("{}: cannot be written: {}", path.string(), std::strerror(errno));
}

void JsonLines::write(const nlohmann::ordered_json& line) {
  stream_ << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n'
          << std::flush;
  if (!stream_) throw DataError("{}: writing failed: {}", path_.string(), std::strerror(errno));
}

}  // namespace outstep::io
