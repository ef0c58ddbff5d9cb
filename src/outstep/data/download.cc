#include "outstep/data/download.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/base/hash.h"
#include "outstep/base/text.h"
#include "outstep/io/files.h"

namespace outstep::data {
namespace {

namespace fs = std::filesystem;

// PATH.part: what came so far. It is made, and its folder, with the first byte.
class PartFile {
 public:
  explicit PartFile(const fs::path& path) : target_(path), path_(path.string() + ".part") {
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
    if (descriptor_ < 0 && errno != ENOENT) throw_errno("cannot be written");
    if (descriptor_ < 0) return;
    lock();
    size_ = ::lseek(descriptor_, 0, SEEK_END);
  }
  ~PartFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  const fs::path& path() const { return path_; }
  int64_t size() const { return size_; }

  void append(const char* bytes, size_t count) {
    if (descriptor_ < 0) make();
    while (count > 0) {
      const ssize_t written = ::write(descriptor_, bytes, count);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) throw_errno("cannot be written");
      bytes += written;
      count -= static_cast<size_t>(written);
      size_ += written;
    }
  }
  void clear() {
    if (descriptor_ < 0) return;
    if (::ftruncate(descriptor_, 0) != 0 || ::lseek(descriptor_, 0, SEEK_SET) != 0)
      throw_errno("cannot be cut");
    size_ = 0;
  }
  void remove() {
    if (descriptor_ >= 0) ::unlink(path_.c_str());
  }
  // Under the name it was downloaded for.
  void finish() {
    if (::fsync(descriptor_) != 0) throw_errno("cannot be written");
    if (::rename(path_.c_str(), target_.c_str()) != 0) throw_errno("cannot be put in place");
    io::sync_folder(folder());
  }

 private:
  fs::path folder() const { return path_.has_parent_path() ? path_.parent_path() : "."; }
  void make() {
    io::make_folder(folder());
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (descriptor_ < 0 && errno == EEXIST) throw_busy();
    if (descriptor_ < 0) throw_errno("cannot be written");
    lock();
  }
  void lock() {
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
    ::close(std::exchange(descriptor_, -1));
    throw_busy();
  }
  [[noreturn]] void throw_busy() const {
    throw DataError("{}: another process is downloading it", target_.string());
  }
  [[noreturn]] void throw_errno(const char* what) const {
    throw DataError("{}: {}: {}", path_.string(), what, std::strerror(errno));
  }

  fs::path target_;
  fs::path path_;
  int descriptor_ = -1;  // -1: not made yet
  int64_t size_ = 0;
};

// One request, as its callbacks see it.
struct Transfer {
  PartFile* part;
  const DownloadOptions* options;
  std::exception_ptr error = nullptr;  // thrown in a callback, which must not let it through C code
  bool is_too_long = false;
};

size_t take_bytes(char* bytes, size_t, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  try {
    const auto left = transfer.options->num_bytes - transfer.part->size();
    if (static_cast<int64_t>(count) > left) {
      transfer.is_too_long = true;
      return 0;
    }
    transfer.part->append(bytes, count);
    return count;
  } catch (...) {
    transfer.error = std::current_exception();
    return 0;
  }
}

int show_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(user);
  const DownloadOptions& options = *transfer.options;
  try {
    if (options.on_progress) options.on_progress(transfer.part->size(), options.num_bytes);
  } catch (...) {
    transfer.error = std::current_exception();
    return 1;
  }
  return options.stop != nullptr && options.stop->load() ? 1 : 0;
}

using Curl = std::unique_ptr<CURL, decltype(&curl_easy_cleanup)>;

Curl make_curl(Transfer& transfer, const std::string& address, char* reason) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  Curl curl(curl_easy_init(), &curl_easy_cleanup);
  check(curl != nullptr, "libcurl starts");
  CURL* handle = curl.get();
  curl_easy_setopt(handle, CURLOPT_URL, address.c_str());
#if LIBCURL_VERSION_NUM >= 0x075500
  curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(handle, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
#else
  curl_easy_setopt(handle, CURLOPT_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
  curl_easy_setopt(handle, CURLOPT_REDIR_PROTOCOLS, CURLPROTO_HTTP | CURLPROTO_HTTPS);
#endif
  curl_easy_setopt(handle, CURLOPT_USERAGENT, "outstep");
  curl_easy_setopt(handle, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(handle, CURLOPT_MAXREDIRS, 5L);
  curl_easy_setopt(handle, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT,
                   static_cast<long>(transfer.options->idle_seconds));
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_TIME,
                   static_cast<long>(transfer.options->idle_seconds));
  curl_easy_setopt(handle, CURLOPT_ERRORBUFFER, reason);
  curl_easy_setopt(handle, CURLOPT_RESUME_FROM_LARGE,
                   static_cast<curl_off_t>(transfer.part->size()));
  curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, take_bytes);
  curl_easy_setopt(handle, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, show_progress);
  curl_easy_setopt(handle, CURLOPT_XFERINFODATA, &transfer);
  curl_easy_setopt(handle, CURLOPT_NOPROGRESS, 0L);
  return curl;
}

// Asks one address for what is missing. Returns "" when all is there, otherwise why not.
std::string ask(const std::string& address, PartFile& part, const DownloadOptions& options) {
  if (part.size() > options.num_bytes) part.clear();
  if (part.size() == options.num_bytes) return "";
  char reason[CURL_ERROR_SIZE] = "";
  Transfer transfer{.part = &part, .options = &options};
  const Curl curl = make_curl(transfer, address, reason);
  const CURLcode result = curl_easy_perform(curl.get());
  if (transfer.error) std::rethrow_exception(transfer.error);
  if (options.stop != nullptr && options.stop->load()) {
    throw DataError("{}: stopped at {} of {}; the same command goes on from there",
                    part.path().string(), human_bytes(part.size()), human_bytes(options.num_bytes));
  }
  if (transfer.is_too_long) {
    part.clear();
    return fmt::format("it sends more than the {} bytes expected", with_commas(options.num_bytes));
  }
  if (result == CURLE_RANGE_ERROR) {  // no Range on this server: from the beginning
    part.clear();
    return ask(address, part, options);
  }
  if (result != CURLE_OK) return reason[0] != '\0' ? reason : curl_easy_strerror(result);
  if (part.size() < options.num_bytes) {
    return fmt::format("it sends {} bytes, {} are expected", with_commas(part.size()),
                       with_commas(options.num_bytes));
  }
  return "";
}

// Fills the part from one address and compares its hash. Returns "" or why it is not what was
// wanted.
std::string fill(const std::string& address, PartFile& part, const DownloadOptions& options) {
  while (true) {
    const bool was_begun = part.size() > 0;
    const std::string reason = ask(address, part, options);
    if (!reason.empty()) return reason;
    const std::string found = sha256_of_file(part.path());
    if (found == options.sha256) return "";
    part.clear();
    if (was_begun)
      continue;  // what was there may have been of another file: once more, from the beginning
    return fmt::format("its SHA-256 is {}, but {} is expected", found, options.sha256);
  }
}

}  // namespace

void download(const fs::path& path, const DownloadOptions& options) {
  check(!options.addresses.empty() && options.num_bytes > 0 && options.sha256.size() == 64,
        "a download has an address, a size and a hash");
  PartFile part(path);
  std::string reasons;
  for (const std::string& address : options.addresses) {
    const std::string reason = fill(address, part, options);
    if (reason.empty()) return part.finish();
    reasons += fmt::format("\n    {}: {}", address, reason);
  }
  if (part.size() == 0) {
    part.remove();
    throw DataError("{}: the download failed:{}", path.string(), reasons);
  }
  throw DataError("{}: the download stopped at {} of {}; the same command goes on from there:{}",
                  path.string(), human_bytes(part.size()), human_bytes(options.num_bytes), reasons);
}

}  // namespace outstep::data
