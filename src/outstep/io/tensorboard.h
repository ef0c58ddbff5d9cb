#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

// Writes TensorBoard event files (TFRecord framing with masked CRC-32C around Event messages),
// scalars and texts only. Everything throws DataError naming the file and the system's reason; a
// full disk may show only at flush(). Not thread safe.

namespace outstep::io {

class TensorBoardWriter {
 public:
  // Makes FOLDER/events.out.tfevents.SECONDS.HOST.PID.
  explicit TensorBoardWriter(const std::filesystem::path& folder);

  void scalar(const std::string& tag, double value, int64_t step);
  void text(const std::string& tag, const std::string& markdown, int64_t step);
  void flush();

 private:
  void write_event(const std::string& payload);
  void require_written() const;

  std::filesystem::path path_;
  std::ofstream stream_;
};

uint32_t crc32c(const void* data, size_t num_bytes);

}  // namespace outstep::io
