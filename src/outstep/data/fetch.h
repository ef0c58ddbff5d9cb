#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "outstep/data/catalogue.h"

namespace outstep::data {

struct FetchProgress {
  std::string file;  // being downloaded, unpacked or copied
  int64_t done_bytes = 0;
  int64_t total_bytes = 0;
};

struct FetchOptions {
  std::filesystem::path data_root;  // the set's folder is made in it
  // A folder that has the set already, to copy from; empty: download.
  std::filesystem::path from = {};
  std::function<void(const FetchProgress&)> on_progress = nullptr;
  // Set: leave with a DataError; the same call goes on from there.
  const std::atomic<bool>* stop = nullptr;
};

struct FetchReport {
  std::filesystem::path folder;
  std::vector<std::string> already_there;
  std::vector<std::string> fetched;
  std::vector<std::string> missing;  // of a local folder that has only a part of the set
};

// Brings a set into data_root/<its folder>, checking sizes and hashes; a file that is there and
// right is left alone, one that is wrong is replaced. Each file appears whole or not at all, the
// folder with the first of them. An archive is removed once all its files are there.
//
// With `from`, the files, or the archive with them, are looked for in that folder and in its folder
// of the set's name (english-classics, cifar-10-batches-bin, …). What it does not have is reported,
// not an error, unless it has nothing. Throws DataError: nothing found, wrong content, failed
// downloads, a full disk. One fetch of a set at a time.
FetchReport fetch(const CatalogueEntry& entry, const FetchOptions& options);

}  // namespace outstep::data
