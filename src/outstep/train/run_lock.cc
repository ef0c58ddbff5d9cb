#include "outstep/train/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "outstep/base/errors.h"

namespace outstep::train {

RunLock::RunLock(const std::filesystem::path& run_folder) {
  std::filesystem::create_directories(run_folder);
  const auto path = run_folder / ".lock";
  descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw DataError("{}: {}", path.string(), std::strerror(errno));
  // Other failures are of file systems that know no locks: there a run goes without.
  if (flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  close(descriptor_);
  throw DataError("{} is being trained by another process; wait for its end, or stop it",
                  run_folder.string());
}

RunLock::~RunLock() { close(descriptor_); }

}  // namespace outstep::train
