#include "outstep/data/token_row.h"

#include <cstring>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/io/files.h"

namespace outstep::data {
namespace {

template <typename Id>
void widen(const std::byte* from, std::span<int64_t> into) {
  for (size_t i = 0; i < into.size(); ++i) {
    Id id;  // token files need not be aligned
    std::memcpy(&id, from + i * sizeof(Id), sizeof(Id));
    into[i] = static_cast<int64_t>(id);
  }
}

}  // namespace

TokenRow::TokenRow(std::shared_ptr<const void> owner, const std::byte* first, int64_t num_tokens,
                   int width, std::string name)
    : owner_(std::move(owner)),
      first_(first),
      size_(num_tokens),
      width_(width),
      name_(std::move(name)) {
  check(width == 1 || width == 2 || width == 4, "a token has 1, 2 or 4 bytes");
}

TokenRow TokenRow::of_text(const std::filesystem::path& path) {
  auto file = std::make_shared<const io::MappedFile>(path);
  const auto bytes = file->bytes();
  return TokenRow(file, bytes.data(), static_cast<int64_t>(bytes.size()), 1, path.string());
}

TokenRow TokenRow::of_ids(std::vector<int32_t> ids, std::string name) {
  auto owner = std::make_shared<const std::vector<int32_t>>(std::move(ids));
  const auto* first = reinterpret_cast<const std::byte*>(owner->data());
  const auto size = static_cast<int64_t>(owner->size());
  return TokenRow(owner, first, size, 4, std::move(name));
}

void TokenRow::read(int64_t begin, std::span<int64_t> into) const {
  const auto count = static_cast<int64_t>(into.size());
  check(begin >= 0 && count <= size_ && begin <= size_ - count, "tokens are read inside their row");
  const std::byte* from = first_ + begin * width_;
  switch (width_) {
    case 1:
      return widen<uint8_t>(from, into);
    case 2:
      return widen<uint16_t>(from, into);
    default:
      return widen<uint32_t>(from, into);
  }
}

TokenRow TokenRow::slice(int64_t begin, int64_t end, std::string name) const {
  check(begin >= 0 && begin <= end && end <= size_, "a slice lies inside its row");
  return TokenRow(owner_, first_ + begin * width_, end - begin, width_, std::move(name));
}

}  // namespace outstep::data
