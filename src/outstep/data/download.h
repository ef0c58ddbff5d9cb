#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace outstep::data {

struct DownloadOptions {
  std::vector<std::string> addresses = {};  // http or https; the next is tried when one fails
  int64_t num_bytes = 0;                    // the file's size
  std::string sha256 = {};                  // 64 lower-case digits
  // Called from this thread some times a second. May be null.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> on_progress = nullptr;
  const std::atomic<bool>* stop = nullptr;  // set: leaves with a DataError, keeping what came
  int64_t idle_seconds = 30;                // without a byte: the address has failed
};

// Downloads a file so that `path` appears complete and with the right hash, or not at all. Its
// folder is made with the first byte.
//
// What came so far lies in PATH.part; a later call goes on from there where the server can (Range),
// and begins anew where it cannot. A .part that turns out wrong is deleted; if some of it was left
// by an earlier call, the download is tried once more from the beginning. Throws DataError: no
// address gives the file (each with its reason: no answer, 404, wrong size, wrong hash), disk full.
// A second download to the same path at the same time is refused, from the first byte on.
void download(const std::filesystem::path& path, const DownloadOptions& options);

}  // namespace outstep::data
