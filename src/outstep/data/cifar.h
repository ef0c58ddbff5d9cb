#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "outstep/data/images.h"

// CIFAR's binary files (Krizhevsky, 2009): records without a header, each the label, or labels, of
// one byte and 1,024 bytes each of red, green and blue, row by row.
//
//   CIFAR-10    3,073 bytes: class 0–9, pixels
//   CIFAR-100   3,074 bytes: coarse class 0–19, fine class 0–99, pixels; the fine class is the
//   label

namespace outstep::data {

enum class CifarKind { cifar10, cifar100 };

// Maps the files, one after another. Throws DataError: missing, empty, not a whole number of
// records, a label out of range (the file, the record and its offset).
ImageRecords open_cifar(CifarKind kind, const std::vector<std::filesystem::path>& files);

}  // namespace outstep::data
