#include "outstep/io/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"

namespace outstep::io {

namespace {

constexpr size_t kMaxDims = 64;  // what torch's iterators take
constexpr const char* kMetadata = "__metadata__";

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
    {"F8_E8M0", at::kFloat8_e8m0fnu},
};

// Builds the header while nlohmann's parser walks through it. A callback that returns false ends
// the walk; complaint() then says why.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(size_t data_bytes) : data_bytes_(data_bytes) {}

  SafetensorsHeader& header() { return header_; }
  const std::string& complaint() const { return complaint_; }

  bool null() override { return refuse_value("null"); }
  bool boolean(bool value) override { return refuse_value(value ? "true" : "false"); }
  bool number_integer(int64_t value) override { return refuse_value(std::to_string(value)); }
  bool number_float(double, const std::string& digits) override {
    return refuse_value(digits.substr(0, 40));
  }
  bool binary(nlohmann::json::binary_t&) override { return refuse_value("binary data"); }

  bool number_unsigned(uint64_t value) override {
    if (place_ == Place::shape && value <= kMaxSize) {
      if (info_.shape.size() == kMaxDims) {
        return refuse_entry(fmt::format("it has more than {} dims", kMaxDims));
      }
      info_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::offsets && value <= kMaxSize) {
      if (num_offsets_ == 2) return refuse_entry("data_offsets must be two numbers");
      (num_offsets_++ == 0 ? info_.begin : info_.end) = value;
      return true;
    }
    return refuse_value(std::to_string(value));
  }

  bool string(std::string& value) override {
    if (place_ == Place::metadata) {
      header_.metadata[key_] = std::move(value);
      return true;
    }
    if (place_ != Place::entry || key_ != "dtype") return refuse_value(shown(value));
    const auto* known = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                     [&](const DtypeName& d) { return value == d.name; });
    if (known == std::end(kDtypes)) return refuse_entry("unknown dtype " + shown(value));
    info_.dtype = known->dtype;
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::outside) {
      place_ = Place::header;
    } else if (place_ == Place::header && name_ == kMetadata) {
      place_ = Place::metadata;
    } else if (place_ == Place::header) {
      place_ = Place::entry;
      info_ = TensorInfo{};
      num_offsets_ = 0;
      has_dtype_ = has_shape_ = has_offsets_ = false;
    } else {
      return refuse_value("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::entry && !finish_entry()) return false;
    place_ = place_ == Place::header ? Place::outside : Place::header;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::entry && key_ == "shape") {
      place_ = Place::shape;
    } else if (place_ == Place::entry && key_ == "data_offsets") {
      place_ = Place::offsets;
    } else {
      return refuse_value("a list");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::offsets && num_offsets_ != 2) {
      return refuse_entry("data_offsets must be two numbers");
    }
    place_ = Place::entry;
    return true;
  }

  bool key(std::string& text) override {
    bool is_new = true;
    if (place_ == Place::header) {
      is_new =
          text == kMetadata ? !std::exchange(has_metadata_, true) : !header_.tensors.contains(text);
      name_ = text;
    } else if (place_ == Place::metadata) {
      is_new = !header_.metadata.contains(text);
    } else if (text == "dtype") {
      is_new = !std::exchange(has_dtype_, true);
    } else if (text == "shape") {
      is_new = !std::exchange(has_shape_, true);
    } else if (text == "data_offsets") {
      is_new = !std::exchange(has_offsets_, true);
    } else {
      return refuse_entry("an entry must hold dtype, shape and data_offsets, nothing else");
    }
    key_ = std::move(text);
    return is_new || refuse(fmt::format("the name {} stands twice in the header", shown(key_)));
  }

  bool parse_error(size_t position, const std::string& /*token*/,
                   const nlohmann::json::exception& error) override {
    // "[json.exception…] parse error at …: REASON; last read: '…'": the reason is enough.
    std::string reason = error.what();
    reason = reason.substr(0, reason.find("; last read"));
    if (const size_t colon = reason.find(": "); colon != std::string::npos) {
      reason = reason.substr(colon + 2);
    }
    return refuse(
        fmt::format("the header is not valid JSON (byte {}): {}", position, reason.substr(0, 200)));
  }

 private:
  // The kind of thing whose inside is being read.
  enum class Place { outside, header, metadata, entry, shape, offsets };
  static constexpr auto kMaxSize = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());

  bool refuse(std::string why) {
    complaint_ = std::move(why);
    return false;
  }
  bool refuse_entry(const std::string& why) {
    return refuse(fmt::format("tensor {}: {}", shown(name_), why));
  }
  // A value of the wrong kind for where it stands.
  bool refuse_value(const std::string& value) {
    switch (place_) {
      case Place::outside:
        return refuse("the header is not a JSON object");
      case Place::header:
        if (name_ == kMetadata) return refuse("__metadata__ is not an object");
        return refuse_entry("an entry must hold dtype, shape and data_offsets, nothing else");
      case Place::metadata:
        return refuse(fmt::format("__metadata__ {} is not text", shown(key_)));
      case Place::entry:
        if (key_ == "dtype") return refuse_entry("unknown dtype " + value);
        return refuse_entry(fmt::format("{} must be a list, not {}", key_, value));
      case Place::shape:
      case Place::offsets:
        return refuse_entry(fmt::format("{}: {} is not a size", key_, value));
    }
    throw InternalError("unknown place in a header");
  }

  // Whether the entry just read is whole and its numbers agree.
  bool finish_entry() {
    if (!has_dtype_ || !has_shape_ || !has_offsets_) {
      return refuse_entry("an entry must hold dtype, shape and data_offsets, nothing else");
    }
    // A dim of zero hides no overflow: torch multiplies the others for the strides.
    auto full_bytes = static_cast<int64_t>(c10::elementSize(info_.dtype));
    bool is_empty = false;
    for (const int64_t dim : info_.shape) {
      is_empty |= dim == 0;
      if (__builtin_mul_overflow(full_bytes, std::max<int64_t>(dim, 1), &full_bytes)) {
        return refuse_entry("its shape overflows");
      }
    }
    if (info_.begin > info_.end || info_.end > data_bytes_) {
      return refuse_entry(fmt::format("its bytes [{}, {}) are not within the {} bytes of data",
                                      info_.begin, info_.end, data_bytes_));
    }
    const size_t num_bytes = is_empty ? 0 : static_cast<size_t>(full_bytes);
    if (info_.end - info_.begin != num_bytes) {
      return refuse_entry(fmt::format("its shape needs {} bytes, its data_offsets hold {}",
                                      num_bytes, info_.end - info_.begin));
    }
    header_.tensors.emplace(name_, std::move(info_));
    return true;
  }

  const size_t data_bytes_;
  SafetensorsHeader header_;
  std::string complaint_;
  Place place_ = Place::outside;
  std::string name_;  // the key of the header's object last read
  std::string key_;   // the key last read, of whatever object
  bool has_metadata_ = false;
  TensorInfo info_{};  // the entry being read, and what of it has been
  int num_offsets_ = 0;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
};

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
      throw DataError("{}: tensor {} begins at byte {} of the data where {} was expected ({})",
                      path, shown(*name), info->begin, expected,
                      info->begin < expected ? "it overlaps another" : "there is a hole");
    }
    expected = info->end;
  }
  if (expected != data_bytes) {
    throw DataError("{}: the last {} of its {} bytes of data belong to no tensor", path,
                    data_bytes - expected, data_bytes);
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, size_t data_bytes,
                                           const std::string& path) {
  if (json.empty() || json.front() != '{') {
    throw DataError("{}: the header is not a JSON object", path);
  }
  // The parser takes a zero byte for the end of its input.
  if (const size_t zero = json.find('\0'); zero != std::string_view::npos) {
    throw DataError("{}: the header is not valid JSON (byte {}): a zero byte", path, zero + 1);
  }
  HeaderReader reader(data_bytes);
  if (!nlohmann::json::sax_parse(json, &reader)) {
    throw DataError("{}: {}", path, reader.complaint());
  }
  check_tiling(reader.header().tensors, data_bytes, path);
  return std::move(reader.header());
}

const char* safetensors_dtype_name(at::ScalarType dtype) {
  for (const DtypeName& known : kDtypes) {
    if (known.dtype == dtype) return known.name;
  }
  return nullptr;
}

}  // namespace outstep::io
