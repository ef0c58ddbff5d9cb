#pragma once

#include <filesystem>
#include <string>

// What this build is, for --version, the records of a run and benchmark pages; and where its shared
// files lie. Thread safe: all of it is fixed when the program is built.

namespace outstep {

struct BuildInfo {
  std::string version;  // "0.1.0"
  std::string
      commit;  // "80d3e003d49c", with "+changes" if the sources differed from it, or "unknown"
  std::string torch_version;  // "2.13.0+cpu", the LibTorch this was compiled against
  std::string compiler;       // "Clang 19.1.7"
  std::string build_type;     // "Release", with "+SANITIZERS" where these are in
};
const BuildInfo& build_info();

// The folder that holds recipes/ and data/: PREFIX/share/outstep beside an installed PREFIX/bin
// program, else the source tree this was built from.
std::filesystem::path share_dir();

}  // namespace outstep
