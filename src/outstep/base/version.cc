#include "outstep/base/version.h"

#include "outstep/base/commit.h"

// OUTSTEP_COMMIT comes from commit.h, which the build writes anew when it changes; the other macros
// come from CMake.

namespace outstep {

const BuildInfo& build_info() {
  static const BuildInfo info{
      .version = OUTSTEP_VERSION,
      .commit = OUTSTEP_COMMIT,
      .torch_version = OUTSTEP_TORCH_VERSION,
      .compiler = OUTSTEP_COMPILER,
      .build_type = OUTSTEP_BUILD_TYPE,
  };
  return info;
}

std::filesystem::path share_dir() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  const auto installed = program.parent_path().parent_path() / "share" / "outstep";
  if (!error && std::filesystem::is_directory(installed / "recipes", error)) return installed;
  return OUTSTEP_SOURCE_DIR;
}

}  // namespace outstep
