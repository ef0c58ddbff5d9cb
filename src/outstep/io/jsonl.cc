#include "outstep/io/jsonl.h"

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "outstep/base/errors.h"
#include "outstep/io/files.h"

namespace outstep::io {

namespace {

// The length of the file up to its last line feed. Only its last pages are read.
uintmax_t whole_lines_bytes(const std::filesystem::path& path) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  return text.rfind('\n') + 1;  // npos + 1 is 0
}

}  // namespace

JsonLines::JsonLines(const std::filesystem::path& path) : path_(path) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    std::filesystem::resize_file(path, whole_lines_bytes(path), error);
  }
  if (error) throw DataError("{}: cannot be written: {}", path.string(), error.message());
  stream_.open(path, std::ios::app | std::ios::binary);
  if (!stream_) throw DataError("{}: cannot be written: {}", path.string(), std::strerror(errno));
}

void JsonLines::write(const nlohmann::ordered_json& line) {
  stream_ << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n'
          << std::flush;
  if (!stream_) throw DataError("{}: writing failed: {}", path_.string(), std::strerror(errno));
}

}  // namespace outstep::io
