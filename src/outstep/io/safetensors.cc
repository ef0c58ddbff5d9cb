#include "outstep/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "outstep/base/errors.h"

namespace outstep::io {

namespace {

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr int kMaxDepth = 4;                     // {name: {data_offsets: [..]}} needs three

struct DtypeName {
  const char* name;
  at::ScalarType dtype;
};
constexpr DtypeName kDtypes[] = {
    {"F64", at::kDouble},
    {"F32", at::kFloat},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U64", at::kUInt64},
    {"U32", at::kUInt32},
    {"U16", at::kUInt16},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2},
};

const char* dtype_name(at::ScalarType dtype) {
  for (const DtypeName& known : kDtypes) {
    if (known.dtype == dtype) return known.name;
  }
  throw InternalError(fmt::format("safetensors has no name for dtype {}", c10::toString(dtype)));
}

// Parses the header while watching what nlohmann's tree would hide: depth, and names given twice.
nlohmann::json parse_header(std::string_view text, const std::string& path) {
  std::vector<std::set<std::string>> open_objects;
  std::string complaint;
  const auto watch = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start) {
      open_objects.emplace_back();
    } else if (event == Event::object_end) {
      open_objects.pop_back();
    } else if (event == Event::key &&
               !open_objects.back().insert(parsed.get<std::string>()).second) {
      complaint =
          fmt::format("the name \"{}\" stands twice in the header", parsed.get<std::string>());
    }
    if (depth > kMaxDepth) complaint = "the header nests too deeply";
    return complaint.empty();
  };
  nlohmann::json header;
  try {
    header = nlohmann::json::parse(text, watch);
  } catch (const nlohmann::json::exception& error) {
    throw DataError("{}: the header is not valid JSON: {}", path, error.what());
  }
  if (!complaint.empty()) throw DataError("{}: {}", path, complaint);
  if (!header.is_object()) throw DataError("{}: the header is not a JSON object", path);
  return header;
}

// a · b, or no value when it does not fit.
bool multiply(size_t a, size_t b, size_t& product) {
  return !__builtin_mul_overflow(a, b, &product);
}

// One number of the header: whole, not negative, at most an int64.
size_t read_size(const nlohmann::json& value, const std::string& where) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    throw DataError("{}: {} is not a size", where, value.dump());
  }
  return value.get<uint64_t>();
}

TensorInfo read_info(const nlohmann::json& entry, const std::string& where, size_t data_bytes) {
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
      !entry.contains("shape") || !entry.contains("data_offsets")) {
    throw DataError("{}: an entry must hold dtype, shape and data_offsets, nothing else", where);
  }
  TensorInfo info{};
  const auto& dtype = entry["dtype"];
  const auto* known = std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const DtypeName& d) {
    return dtype.is_string() && dtype == d.name;
  });
  if (known == std::end(kDtypes)) throw DataError("{}: unknown dtype {}", where, dtype.dump());
  info.dtype = known->dtype;

  const auto& offsets = entry["data_offsets"];
  if (!entry["shape"].is_array() || !offsets.is_array() || offsets.size() != 2) {
    throw DataError("{}: shape and data_offsets must be lists, data_offsets of two numbers", where);
  }
  size_t num_bytes = c10::elementSize(info.dtype);
  for (const auto& dim : entry["shape"]) {
    const size_t size = read_size(dim, where);
    info.shape.push_back(static_cast<int64_t>(size));
    if (!multiply(num_bytes, size, num_bytes)) throw DataError("{}: its shape overflows", where);
  }
  info.begin = read_size(offsets[0], where);
  info.end = read_size(offsets[1], where);
  if (info.begin > info.end || info.end > data_bytes) {
    throw DataError("{}: its bytes [{}, {}) are not within the {} bytes of data", where, info.begin,
                    info.end, data_bytes);
  }
  if (info.end - info.begin != num_bytes) {
    throw DataError("{}: its shape needs {} bytes, its data_offsets hold {}", where, num_bytes,
                    info.end - info.begin);
  }
  return info;
}

// The tensors must tile the data: no overlap, no hole, nothing after the last.
void check_tiling(const std::map<std::string, TensorInfo>& tensors, size_t data_bytes,
                  const std::string& path) {
  std::vector<std::pair<const std::string*, const TensorInfo*>> in_order;
  for (const auto& [name, info] : tensors) in_order.emplace_back(&name, &info);
  std::sort(in_order.begin(), in_order.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second->begin, a.second->end) < std::tie(b.second->begin, b.second->end);
  });
  size_t expected = 0;
  for (const auto& [name, info] : in_order) {
    if (info->begin != expected) {
      throw DataError("{}: tensor \"{}\" begins at byte {} of the data where {} was expected ({})",
                      path, *name, info->begin, expected,
                      info->begin < expected ? "it overlaps another" : "there is a hole");
    }
    expected = info->end;
  }
  if (expected != data_bytes) {
    throw DataError("{}: {} bytes of data belong to no tensor", path, data_bytes - expected);
  }
}

}  // namespace

Safetensors::Safetensors(const std::filesystem::path& path)
    : file_(std::make_shared<const MappedFile>(path)) {
  const auto bytes = file_->bytes();
  const std::string shown = path.string();
  if (bytes.size() < kLengthBytes) {
    throw DataError("{}: {} bytes are too few for a safetensors file", shown, bytes.size());
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i)
    header_bytes |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - kLengthBytes) {
    throw DataError(
        "{}: not a safetensors file, or cut off: its first 8 bytes promise a header of {} bytes, "
        "the file has {}",
        shown, header_bytes, bytes.size());
  }
  data_begin_ = kLengthBytes + header_bytes;
  const size_t data_bytes = bytes.size() - data_begin_;
  const auto header = parse_header(
      {reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, header_bytes}, shown);
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) throw DataError("{}: __metadata__ is not an object", shown);
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) throw DataError("{}: __metadata__ \"{}\" is not text", shown, key);
        metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    tensors_[name] = read_info(entry, fmt::format("{}: tensor \"{}\"", shown, name), data_bytes);
  }
  check_tiling(tensors_, data_bytes, shown);
}

at::Tensor Safetensors::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end())
    throw DataError("{}: there is no tensor \"{}\"", path().string(), name);
  const TensorInfo& info = found->second;
  const auto options = at::TensorOptions().dtype(info.dtype);
  if (info.begin == info.end) return at::empty(info.shape, options);
  const std::byte* data = file_->bytes().data() + data_begin_ + info.begin;
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(info.dtype) != 0) {
    at::Tensor copy = at::empty(info.shape, options);
    std::memcpy(copy.mutable_data_ptr(), data, info.end - info.begin);
    return copy;
  }
  return at::from_blob(const_cast<std::byte*>(data), info.shape, [file = file_](void*) {}, options);
}

void write_safetensors(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    check(!header.contains(name), "tensors written together have different names");
    const size_t end = offset + tensor.nbytes();
    header[name] = {{"dtype", dtype_name(tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');

  AtomicFile file(path);
  std::byte length[kLengthBytes];
  for (size_t i = 0; i < kLengthBytes; ++i)
    length[i] = static_cast<std::byte>(text.size() >> (8 * i) & 0xFF);
  file.write(length);
  file.write(text);
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor values = tensor.detach().to(at::kCPU).contiguous();
    file.write({static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()});
  }
  file.commit();
}

}  // namespace outstep::io
