#include "outstep/data/idx.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/data/inflate.h"
#include "outstep/io/files.h"

namespace outstep::data {
namespace {

constexpr int kUnsignedByte = 8;
constexpr int kNumClasses = 10;

// The bytes of a file that may be compressed, from the front.
class Source {
 public:
  Source(std::span<const std::byte> bytes, std::string name)
      : bytes_(bytes), name_(std::move(name)) {
    if (is_gzip(bytes)) inflater_ = std::make_unique<Inflater>(bytes, name_);
  }

  // More bytes than this cannot come, compressed or not.
  size_t bound() const { return inflater_ ? bytes_.size() * kMaxDeflateRatio : bytes_.size(); }

  size_t read(std::span<std::byte> into) {
    if (inflater_) return inflater_->read(into);
    const size_t count = std::min(into.size(), bytes_.size() - position_);
    std::memcpy(into.data(), bytes_.data() + position_, count);
    position_ += count;
    return count;
  }

  bool at_end() { return inflater_ ? inflater_->at_end() : position_ == bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
  std::string name_;
  size_t position_ = 0;
  std::unique_ptr<Inflater> inflater_;
};

std::vector<int64_t> read_shape(Source& source, const std::string& name) {
  std::byte head[4];
  if (source.read(head) != 4) {
    throw DataError("{}: too short for an IDX file, which begins with a magic number of 4 bytes",
                    name);
  }
  const auto type = std::to_integer<int>(head[2]);
  const auto num_dims = std::to_integer<int>(head[3]);
  if (head[0] != std::byte{0} || head[1] != std::byte{0} || num_dims < 1 || num_dims > 4) {
    throw DataError(
        "{}: not an IDX file: it begins with {:02x} {:02x} {:02x} {:02x}, where 00 00 08 and the "
        "number of dims (1 to 4) are expected",
        name, std::to_integer<int>(head[0]), std::to_integer<int>(head[1]), type, num_dims);
  }
  if (type != kUnsignedByte) {
    throw DataError("{}: an IDX file of type {:#04x}; only unsigned bytes (0x08) are read", name,
                    type);
  }
  std::vector<int64_t> shape;
  for (int d = 0; d < num_dims; ++d) {
    std::byte big_endian[4];
    if (source.read(big_endian) != 4) throw DataError("{}: cut off within the IDX header", name);
    int64_t dim = 0;
    for (const std::byte byte : big_endian) dim = dim * 256 + std::to_integer<int64_t>(byte);
    shape.push_back(dim);
  }
  return shape;
}

// The product of the dims; throws if it passes `bound` or overflows.
size_t count_values(const std::vector<int64_t>& shape, size_t bound, const std::string& name) {
  size_t count = 1;
  for (const int64_t dim : shape) {
    if (__builtin_mul_overflow(count, static_cast<size_t>(dim), &count) || count > bound) {
      throw DataError(
          "{}: the IDX header says {} values, more than the file can hold; it was cut off or is "
          "damaged",
          name, fmt::join(shape, "×"));
    }
  }
  return count;
}

// As many values as there are, at most `count`. Memory grows as they come: a small compressed file
// may claim a thousand times its size.
std::vector<uint8_t> read_values(Source& source, size_t count) {
  constexpr size_t kFirst = 16 << 20;
  std::vector<uint8_t> values;
  while (values.size() < count) {
    const size_t begin = values.size();
    const size_t end = std::min(count, std::max(kFirst, 2 * begin));
    values.reserve(end);  // exactly; resize alone would round up what is kept for the whole run
    values.resize(end);
    const size_t found = source.read(std::as_writable_bytes(std::span(values).subspan(begin)));
    values.resize(begin + found);
    if (begin + found < end) break;
  }
  return values;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace

Idx read_idx(const std::filesystem::path& path) {
  const io::MappedFile file(path);
  const std::string name = path.string();
  Source source(file.bytes(), name);
  Idx idx;
  idx.shape = read_shape(source, name);
  const size_t count = count_values(idx.shape, source.bound(), name);
  idx.values = read_values(source, count);
  if (idx.values.size() != count) {
    throw DataError(
        "{}: the IDX header says {} values ({}), but only {} are there; the file was cut off", name,
        with_commas(static_cast<int64_t>(count)), fmt::join(idx.shape, "×"),
        with_commas(static_cast<int64_t>(idx.values.size())));
  }
  if (!source.at_end()) {
    throw DataError("{}: more bytes follow the {} values ({}) that the IDX header says", name,
                    with_commas(static_cast<int64_t>(count)), fmt::join(idx.shape, "×"));
  }
  return idx;
}

ImageRecords open_idx_images(const std::filesystem::path& images,
                             const std::filesystem::path& labels) {
  struct Pair {
    Idx images;
    Idx labels;
  };
  auto pair = std::make_shared<Pair>(Pair{read_idx(images), read_idx(labels)});
  const auto& shape = pair->images.shape;
  if (shape.size() != 3) {
    throw DataError("{}: images [N, H, W] are expected; the shape is {}", images.string(),
                    shape_text(shape));
  }
  if (pair->labels.shape.size() != 1) {
    throw DataError("{}: labels [N] are expected; the shape is {}", labels.string(),
                    shape_text(pair->labels.shape));
  }
  if (shape[0] != pair->labels.shape[0]) {
    throw DataError("{}: {} images, but {} has {} labels; the two files do not belong together",
                    images.string(), with_commas(shape[0]), labels.string(),
                    with_commas(pair->labels.shape[0]));
  }
  if (pair->images.values.empty()) {
    throw DataError("{}: there is no image in it (shape {})", images.string(), shape_text(shape));
  }
  for (size_t i = 0; i < pair->labels.values.size(); ++i) {
    if (pair->labels.values[i] < kNumClasses) continue;
    throw DataError("{}: label {} is {}, but classes run from 0 to {}", labels.string(),
                    with_commas(static_cast<int64_t>(i)), pair->labels.values[i], kNumClasses - 1);
  }
  const int64_t pixels = shape[1] * shape[2];
  return {.channels = 1,
          .height = shape[1],
          .width = shape[2],
          .num_classes = kNumClasses,
          .runs = {{.owner = pair,
                    .pixels = pair->images.values.data(),
                    .labels = pair->labels.values.data(),
                    .pixels_stride = pixels,
                    .labels_stride = 1,
                    .num_records = shape[0]}}};
}

}  // namespace outstep::data
