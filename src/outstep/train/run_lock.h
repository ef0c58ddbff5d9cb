#pragma once

#include <filesystem>

namespace outstep::train {

// RUN/.lock, held while a process trains the run, so that no second one writes into its folder. The
// kernel lets go of it when the process ends, however it ends.
class RunLock {
 public:
  // Makes the folder if it is not there. Throws DataError if another process holds the lock.
  explicit RunLock(const std::filesystem::path& run_folder);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace outstep::train
