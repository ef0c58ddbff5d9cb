#include "outstep/data/cifar.h"

#include <memory>
#include <string>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/io/files.h"

namespace outstep::data {
namespace {

constexpr int64_t kSide = 32;
constexpr int64_t kPixelBytes = 3 * kSide * kSide;

struct Layout {
  const char* name;  // for: outstep data get NAME
  int64_t record_bytes;
  int64_t label_at;
  int num_classes;
};
Layout layout_of(CifarKind kind) {
  if (kind == CifarKind::cifar10) return {"cifar10", 1 + kPixelBytes, 0, 10};
  return {"cifar100", 2 + kPixelBytes, 1, 100};
}

void check_size(const std::string& path, int64_t size, const Layout& layout) {
  const auto fetch = fmt::format("fetch it again with: outstep data get {}", layout.name);
  if (size == 0) throw DataError("{}: the file is empty; {}", path, fetch);
  const int64_t rest = size % layout.record_bytes;
  if (rest == 0) return;
  const int64_t missing = layout.record_bytes - rest;
  const std::string difference =
      missing == 1 ? "one byte short" : fmt::format("{} bytes short", with_commas(missing));
  throw DataError(
      "{}: {} bytes is not a whole number of {}-byte records ({}).\n  The file was probably cut "
      "off; {}",
      path, with_commas(size), with_commas(layout.record_bytes), difference, fetch);
}

void check_labels(const std::string& path, const ImageRecords::Run& run, const Layout& layout) {
  for (int64_t i = 0; i < run.num_records; ++i) {
    const int label = run.labels[i * run.labels_stride];
    if (label < layout.num_classes) continue;
    throw DataError(
        "{}: record {} (byte {}) has label {}, but classes run from 0 to {}.\n"
        "  The file is not {}'s, or is damaged; fetch it again with: outstep data get {}",
        path, with_commas(i), with_commas(i * layout.record_bytes + layout.label_at), label,
        layout.num_classes - 1, layout.name, layout.name);
  }
}

}  // namespace

ImageRecords open_cifar(CifarKind kind, const std::vector<std::filesystem::path>& files) {
  const Layout layout = layout_of(kind);
  ImageRecords records{.channels = 3,
                       .height = kSide,
                       .width = kSide,
                       .num_classes = layout.num_classes,
                       .runs = {}};
  for (const auto& path : files) {
    auto file = std::make_shared<const io::MappedFile>(path);
    const auto bytes = file->bytes();
    check_size(path.string(), static_cast<int64_t>(bytes.size()), layout);
    const auto* first = reinterpret_cast<const uint8_t*>(bytes.data());
    records.runs.push_back(
        {.owner = file,
         .pixels = first + layout.record_bytes - kPixelBytes,
         .labels = first + layout.label_at,
         .pixels_stride = layout.record_bytes,
         .labels_stride = layout.record_bytes,
         .num_records = static_cast<int64_t>(bytes.size()) / layout.record_bytes});
    check_labels(path.string(), records.runs.back(), layout);
  }
  return records;
}

}  // namespace outstep::data
