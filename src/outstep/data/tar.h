#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace outstep::data {

// A file wanted out of an archive.
struct TarMember {
  std::string path;       // as the archive names it
  int64_t num_bytes = 0;  // as it must be
};

// Writes the wanted members of a gzipped tar archive into a folder, each under its last name, whole
// or not at all.
//
// Nothing else in the archive is written, whatever it is called: links, devices, absolute paths and
// ".." cannot reach the disk, since names come from `wanted` alone. Throws DataError: cut off,
// damaged, a member missing, twice there, no plain file or of another size.
void extract_tar_gz(const std::filesystem::path& archive, std::span<const TarMember> wanted,
                    const std::filesystem::path& into);

}  // namespace outstep::data
