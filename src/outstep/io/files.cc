#include "outstep/io/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "outstep/base/errors.h"

namespace outstep::io {

namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what, int error) {
  throw DataError("{}: {}: {}", path.string(), what, std::strerror(error));
}

int open_to_read(const std::filesystem::path& path) {
  // Not blocking: a pipe without a writer would hold us here for ever.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) fail(path, "cannot be opened", errno);
  struct stat status{};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    throw DataError("{}: {}, not a file", path.string(),
                    S_ISDIR(status.st_mode) ? "a folder" : "a pipe, socket or device");
  }
  return descriptor;
}

// A new file beside path, with the permissions the user's umask grants. -1 and errno if it fails.
int create_beside(const std::filesystem::path& path, std::filesystem::path& temporary) {
  for (int attempt = 0;; ++attempt) {
    temporary = fmt::format("{}.tmp-{}-{}", path.string(), ::getpid(), attempt);
    const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor >= 0 || errno != EEXIST) return descriptor;
  }
}

std::filesystem::file_status status_of(const std::filesystem::path& path) {
  std::error_code error;  // of "not there", too
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::status_known(status)) fail(path, "cannot be looked for", error.value());
  return status;
}

}  // namespace

bool exists(const std::filesystem::path& path) { return std::filesystem::exists(status_of(path)); }

bool is_folder(const std::filesystem::path& path) {
  return std::filesystem::is_directory(status_of(path));
}

void make_folder(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail(path, "the folder cannot be made", error.value());
}

std::string read_text(const std::filesystem::path& path) {
  const int descriptor = open_to_read(path);
  std::string text;
  char buffer[1 << 16];
  while (true) {
    const ssize_t count = ::read(descriptor, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int error = errno;
      ::close(descriptor);
      fail(path, "reading failed", error);
    }
    if (count == 0) break;
    text.append(buffer, static_cast<size_t>(count));
  }
  ::close(descriptor);
  return text;
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const int descriptor = open_to_read(path);
  struct stat status{};
  ::fstat(descriptor, &status);
  size_ = static_cast<size_t>(status.st_size);
  if (size_ > 0) {
    void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int error = errno;
    ::close(descriptor);
    if (data == MAP_FAILED) fail(path, "cannot be mapped", error);
    data_ = static_cast<const std::byte*>(data);
  } else {
    ::close(descriptor);
  }
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  descriptor_ = create_beside(path_, temporary_);
  if (descriptor_ < 0) fail(path_, "cannot be written", errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  check(descriptor_ >= 0, "an atomic file is written before it is committed");
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(path_, "writing failed", errno);
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::commit() {
  check(descriptor_ >= 0, "an atomic file is committed once");
  if (::fsync(descriptor_) != 0) fail(path_, "writing failed", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail(path_, "cannot be put in place", errno);
  }
  ::close(std::exchange(descriptor_, -1));
  sync_folder(path_.has_parent_path() ? path_.parent_path() : ".");
}

void write_text_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void sync_folder(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail(folder, "cannot be opened", errno);
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  // Some network file systems cannot sync a folder and say EINVAL; there is nothing better to do
  // there.
  if (result != 0 && error != EINVAL) fail(folder, "cannot be synced", error);
}

}  // namespace outstep::io
