#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace outstep::data {

// A row of token ids of one, two or four bytes each (little-endian), in memory or in a mapped file.
// Immutable; copies and slices share the bytes and keep them alive.
class TokenRow {
 public:
  TokenRow() = default;
  // `first` points at num_tokens ids of `width` bytes, which live as long as `owner`. `name` begins
  // errors.
  TokenRow(std::shared_ptr<const void> owner, const std::byte* first, int64_t num_tokens, int width,
           std::string name);
  static TokenRow of_text(const std::filesystem::path& path);  // a byte a token; the file is mapped
  static TokenRow of_ids(std::vector<int32_t> ids, std::string name);

  int64_t size() const { return size_; }
  int width() const { return width_; }
  const std::string& name() const { return name_; }
  // The bytes as they lie there.
  std::span<const std::byte> bytes() const {
    return {first_, static_cast<size_t>(size_) * static_cast<size_t>(width_)};
  }
  // Copies ids [begin, begin + into.size()).
  void read(int64_t begin, std::span<int64_t> into) const;
  // Ids [begin, end), which errors call `name`.
  TokenRow slice(int64_t begin, int64_t end, std::string name) const;

 private:
  std::shared_ptr<const void> owner_;
  const std::byte* first_ = nullptr;
  int64_t size_ = 0;
  int width_ = 1;
  std::string name_;
};

}  // namespace outstep::data
