#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "outstep/data/images.h"

// MNIST's IDX files, as they are or gzipped (told by their first bytes, not by their name): two
// zero bytes, the type (8: unsigned bytes, the only one read), the number of dims, each dim as 32
// bits big-endian, then the values.

namespace outstep::data {

struct Idx {
  std::vector<int64_t> shape;
  std::vector<uint8_t> values;
};

// Throws DataError: missing, foreign, cut off, damaged, more or fewer values than the shape says. A
// compressed file is never decompressed beyond what its shape says, and memory is taken as values
// come, whatever the shape says.
Idx read_idx(const std::filesystem::path& path);

// Images [N, H, W] and labels [N] of classes 0–9. Throws DataError: other shapes, counts that
// differ, a label out of range.
ImageRecords open_idx_images(const std::filesystem::path& images,
                             const std::filesystem::path& labels);

}  // namespace outstep::data
