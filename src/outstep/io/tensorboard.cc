#include "outstep/io/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "outstep/base/errors.h"

namespace outstep::io {

namespace {

// Just enough of protobuf's wire format: a field is (number << 3 | type), then its value.
enum class WireType : uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

void put_varint(std::string& out, uint64_t value) {
  while (value >= 0x80) {
    out += static_cast<char>(value | 0x80);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

void put_key(std::string& out, uint32_t field, WireType type) {
  put_varint(out, field << 3 | static_cast<uint32_t>(type));
}

template <typename T>
void put_little_endian(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_bytes(std::string& out, uint32_t field, const std::string& value) {
  put_key(out, field, WireType::bytes);
  put_varint(out, value.size());
  out += value;
}

// Event: wall_time = 1 (double), step = 2 (int64).
std::string event_head(int64_t step) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  std::string out;
  put_key(out, 1, WireType::fixed64);
  put_little_endian(out, std::chrono::duration<double>(now).count());
  put_key(out, 2, WireType::varint);
  put_varint(out, static_cast<uint64_t>(step));
  return out;
}

// Event.summary = 5, Summary.value = 1.
std::string summary_event(int64_t step, const std::string& value) {
  std::string summary;
  put_bytes(summary, 1, value);
  std::string event = event_head(step);
  put_bytes(event, 5, summary);
  return event;
}

// TFRecord stores a CRC rotated and offset, so that a CRC of data that holds CRCs stays strong.
uint32_t masked_crc32c(const std::string& bytes) {
  const uint32_t crc = crc32c(bytes.data(), bytes.size());
  return std::rotr(crc, 15) + 0xa282ead8u;
}

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    table[byte] = crc;
  }
  return table;
}

}  // namespace

uint32_t crc32c(const void* data, size_t num_bytes) {
  static constexpr auto kTable = crc_table();
  uint32_t crc = ~0u;
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < num_bytes; ++i) crc = crc >> 8 ^ kTable[(crc ^ bytes[i]) & 0xFF];
  return ~crc;
}

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& folder) {
  char host[256] = "host";
  ::gethostname(host, sizeof host - 1);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  path_ = folder / fmt::format("events.out.tfevents.{}.{}.{}",
                               std::chrono::duration_cast<std::chrono::seconds>(now).count(), host,
                               ::getpid());
  stream_.open(path_, std::ios::binary | std::ios::app);
  if (!stream_) throw DataError("{}: cannot be written: {}", path_.string(), std::strerror(errno));
  std::string event = event_head(0);
  put_bytes(event, 3, "brain.Event:2");  // Event.file_version
  write_event(event);
}

void TensorBoardWriter::scalar(const std::string& tag, double value, int64_t step) {
  std::string entry;
  put_bytes(entry, 1, tag);              // Value.tag
  put_key(entry, 2, WireType::fixed32);  // Value.simple_value
  put_little_endian(entry, static_cast<float>(value));
  write_event(summary_event(step, entry));
}

void TensorBoardWriter::text(const std::string& tag, const std::string& markdown, int64_t step) {
  std::string plugin;
  put_bytes(plugin, 1, "text");  // PluginData.plugin_name
  std::string metadata;
  put_bytes(metadata, 1, plugin);  // SummaryMetadata.plugin_data
  std::string shape;
  {
    std::string dim;
    put_key(dim, 1, WireType::varint);  // Dim.size
    put_varint(dim, 1);
    put_bytes(shape, 2, dim);  // TensorShapeProto.dim
  }
  std::string tensor;
  put_key(tensor, 1, WireType::varint);  // TensorProto.dtype = DT_STRING
  put_varint(tensor, 7);
  put_bytes(tensor, 2, shape);     // TensorProto.tensor_shape
  put_bytes(tensor, 8, markdown);  // TensorProto.string_val
  std::string entry;
  put_bytes(entry, 1, tag + "/text_summary");
  put_bytes(entry, 8, tensor);    // Value.tensor
  put_bytes(entry, 9, metadata);  // Value.metadata
  write_event(summary_event(step, entry));
}

void TensorBoardWriter::flush() {
  stream_.flush();
  require_written();
}

void TensorBoardWriter::require_written() const {
  if (!stream_) throw DataError("{}: writing failed: {}", path_.string(), std::strerror(errno));
}

void TensorBoardWriter::write_event(const std::string& payload) {
  std::string length;
  put_little_endian(length, static_cast<uint64_t>(payload.size()));
  std::string record = length;
  put_little_endian(record, masked_crc32c(length));
  record += payload;
  put_little_endian(record, masked_crc32c(payload));
  stream_.write(record.data(), static_cast<std::streamsize>(record.size()));
  require_written();
}

}  // namespace outstep::io
