#include "outstep/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "outstep/base/errors.h"
#include "outstep/io/safetensors_header.h"

namespace outstep::io {

namespace {

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

// The JSON header, padded with spaces so that the data begins aligned to 8 bytes.
std::string header_text(const std::vector<AnnouncedTensor>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::set<std::string> names = {"__metadata__"};
  size_t offset = 0;
  for (const auto& [name, type, shape] : tensors) {
    check(names.insert(name).second, "tensors written together have names of their own");
    const char* dtype = safetensors_dtype_name(type);
    check(dtype != nullptr, "safetensors has a name for the dtype of every tensor written");
    const auto numel = static_cast<size_t>(c10::multiply_integers(shape));
    const size_t end = offset + numel * c10::elementSize(type);
    // Appended without the search for an equal key that operator[] makes.
    header.get_ref<nlohmann::ordered_json::object_t&>().push_back(
        {name, {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {offset, end}}}});
    offset = end;
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace

Safetensors::Safetensors(const std::filesystem::path& path)
    : file_(std::make_shared<const MappedFile>(path)) {
  const auto bytes = file_->bytes();
  if (bytes.size() < kLengthBytes) {
    throw DataError("{}: {} bytes are too few for a safetensors file", path.string(), bytes.size());
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    header_bytes |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  }
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - kLengthBytes) {
    throw DataError(
        "{}: not a safetensors file, or cut off: its first 8 bytes promise a header of {} bytes, "
        "the file has {}",
        path.string(), header_bytes, bytes.size());
  }
  data_begin_ = kLengthBytes + header_bytes;
  auto header = parse_safetensors_header(
      {reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, header_bytes},
      bytes.size() - data_begin_, path.string());
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
}

at::Tensor Safetensors::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw DataError("{}: there is no tensor \"{}\"", path().string(), name);
  }
  const TensorInfo& info = found->second;
  const auto options = at::TensorOptions().dtype(info.dtype);
  if (info.begin == info.end) return at::empty(info.shape, options);
  const auto bytes = file_->bytes().subspan(data_begin_ + info.begin, info.end - info.begin);
  if (info.dtype == at::kBool) {  // any other byte as a bool is undefined behaviour
    const auto bad = std::find_if(bytes.begin(), bytes.end(),
                                  [](std::byte byte) { return byte > std::byte{1}; });
    if (bad != bytes.end()) {
      throw DataError("{}: tensor \"{}\": byte {} of it is {}, a BOOL is 0 or 1", path().string(),
                      name, bad - bytes.begin(), static_cast<int>(*bad));
    }
  }
  if (reinterpret_cast<uintptr_t>(bytes.data()) % c10::elementSize(info.dtype) != 0) {
    at::Tensor copy = at::empty(info.shape, options);
    std::memcpy(copy.mutable_data_ptr(), bytes.data(), bytes.size());
    return copy;
  }
  return at::from_blob(
      const_cast<std::byte*>(bytes.data()), info.shape, [file = file_](void*) {}, options);
}

void write_safetensors(const std::filesystem::path& path,
                       const std::vector<AnnouncedTensor>& announced,
                       const std::function<at::Tensor(const std::string& name)>& make,
                       const std::map<std::string, std::string>& metadata) {
  const std::string header = header_text(announced, metadata);
  std::byte length[kLengthBytes];
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length[i] = static_cast<std::byte>(header.size() >> (8 * i) & 0xFF);
  }
  AtomicFile file(path);
  file.write(length);
  file.write(header);
  for (const AnnouncedTensor& as : announced) {
    // At most one tensor is copied at a time, and only if it is elsewhere or strided.
    const at::Tensor values = make(as.name).detach().to(at::kCPU).contiguous();
    check(values.scalar_type() == as.dtype && values.sizes() == at::IntArrayRef(as.shape),
          "a tensor is written as it was announced");
    file.write({static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()});
  }
  file.commit();
}

void write_safetensors(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<AnnouncedTensor> announced;
  for (const auto& [name, tensor] : tensors) {
    announced.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  }
  auto next = tensors.begin();
  write_safetensors(
      path, announced, [&](const std::string&) { return (next++)->second; }, metadata);
}

}  // namespace outstep::io
