#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "outstep/base/torch.h"
#include "outstep/io/files.h"

// Reader and writer of the safetensors format: 8 bytes of header length, a JSON header, the
// tensors' bytes.
//
//   io::Safetensors file("model.safetensors");
//   at::Tensor weight = file.tensor("wte.weight");      // a view of the mapped file: copy it to
//   keep or change it
//
// A file is hostile until checked: lengths that lie, ranges that overlap, leave holes or overflow,
// unknown types, shapes that do not fit their bytes, duplicate names, JSON that is not UTF-8 or
// nests deeply are refused with a DataError that names the file, the tensor and the numbers found,
// before any tensor is handed out.

namespace outstep::io {

struct TensorInfo {
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  size_t begin = 0;  // bytes, from the start of the data
  size_t end = 0;
};

class Safetensors {
 public:
  explicit Safetensors(const std::filesystem::path& path);

  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool has(const std::string& name) const { return tensors_.contains(name); }

  // A read-only view of the mapped bytes; it keeps the mapping alive. Throws DataError if there is
  // no such tensor.
  at::Tensor tensor(const std::string& name) const;
  const std::filesystem::path& path() const { return file_->path(); }

 private:
  std::shared_ptr<const MappedFile> file_;
  size_t data_begin_ = 0;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Writes tensors (any device, any strides) in the order given, atomically. Equal input gives equal
// bytes.
void write_safetensors(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

// The same of tensors that are made one after the other: make is asked for each in turn, which must
// be as announced, and may forget it then. For models that do not fit into memory at once.
struct AnnouncedTensor {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
};
void write_safetensors(const std::filesystem::path& path,
                       const std::vector<AnnouncedTensor>& announced,
                       const std::function<at::Tensor(const std::string& name)>& make,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace outstep::io
