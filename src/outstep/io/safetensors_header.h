#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include "outstep/io/safetensors.h"

namespace outstep::io {

struct SafetensorsHeader {
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
};

// Reads the JSON header of a safetensors file whose tensors fill data_bytes, and refuses it unless
// the tensors tile these exactly. It stops at the first thing that has no place in a header, so a
// hostile one costs no more memory than its own bytes. Throws DataError beginning with path.
SafetensorsHeader parse_safetensors_header(std::string_view json, size_t data_bytes,
                                           const std::string& path);

// "F32", "BF16", …; null if the format has no name for it.
const char* safetensors_dtype_name(at::ScalarType dtype);

}  // namespace outstep::io
