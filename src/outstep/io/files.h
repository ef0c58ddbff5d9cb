#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

// Files looked for, read whole, mapped, or written so that they exist completely or not at all.
// Everything here throws DataError naming the path and the system's reason.

namespace outstep::io {

// Links are followed. What cannot be told (a folder that may not be entered) is an error, not "no".
bool exists(const std::filesystem::path& path);
bool is_folder(const std::filesystem::path& path);
// With the folders above it; one that is there is fine.
void make_folder(const std::filesystem::path& path);

std::string read_text(const std::filesystem::path& path);

// A file mapped read-only. Movable; the bytes live as long as it does.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Writes to a temporary name beside path; commit() fsyncs and renames. Without commit() nothing is
// left behind.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

void write_text_atomically(const std::filesystem::path& path, std::string_view text);
// Makes a folder's entries (new names, renames) survive a power cut.
void sync_folder(const std::filesystem::path& folder);

}  // namespace outstep::io
