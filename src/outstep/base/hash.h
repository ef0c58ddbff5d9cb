#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

// Two hashes: a fast 64-bit one to compare (XXH3), and SHA-256 to check what was downloaded or
// saved.

namespace outstep {

uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed = 0);

// Feeds on pieces; hex() ends it.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void update(std::span<const std::byte> bytes);
  std::string hex();  // 64 lower-case digits; call once

 private:
  void* context_;  // EVP_MD_CTX
};

// Of a whole file. Throws DataError if it cannot be read.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace outstep
