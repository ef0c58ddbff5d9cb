#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "outstep/comm/mesh.h"

namespace outstep::train {

// manifest.json of a checkpoint: what was saved by whom, and every file's size and SHA-256, by
// which a file that was altered or cut off is known before anything of it is used.
struct Manifest {
  struct File {
    std::string name;  // "config.json", "member-01/config.json"
    int64_t num_bytes = 0;
    std::string sha256;
  };

  int64_t step = 0;
  double progress = 0;             // Position of checkpoint.h
  comm::Mesh mesh;                 // of the world that saved
  std::vector<int> members = {0};  // its members' own numbers (members.h), in order
  std::optional<double> validation_loss;
  std::vector<File> files;

  // Throws DataError: missing, or not a manifest (says what is wrong with it), which is also one
  // that leaves out a file that it must list.
  static Manifest read(const std::filesystem::path& folder);
  // The same of a checkpoint that was finished: throws DataError if it has no DONE.
  static Manifest read_complete(const std::filesystem::path& folder);
  void write(const std::filesystem::path& folder) const;

  // What a checkpoint of this mesh and these members consists of, all of which files lists.
  std::vector<std::string> file_names() const;
  // A member's place in the mesh that saved; none if it was not there.
  std::optional<int> place_of_member(int id) const;

  // Hashes the files at first, first + stride, … and throws DataError for the first one that is
  // missing, of another size or altered.
  void verify(const std::filesystem::path& folder, size_t first = 0, size_t stride = 1) const;
};

// Of what a rank holds beside the model.
std::string state_name(int rank);
// Of a file as it lies on disk. name: in the checkpoint's folder.
Manifest::File describe_file(const std::filesystem::path& folder, const std::string& name);

}  // namespace outstep::train
