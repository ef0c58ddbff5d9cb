#include "outstep/base/hash.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "outstep/base/errors.h"

namespace outstep {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// FIPS 180-2, appendix B.1.
constexpr const char* kShaOfAbc =
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(Sha256, GivesThePublishedAnswerInPieces) {
  Sha256 sha;
  sha.update(bytes_of("a"));
  sha.update(bytes_of("bc"));
  EXPECT_EQ(sha.hex(), kShaOfAbc);
}

TEST(Sha256, OfAFile) {
  const auto path = std::filesystem::path(testing::TempDir()) / "outstep_sha256_test";
  std::ofstream(path) << "abc";
  EXPECT_EQ(sha256_of_file(path), kShaOfAbc);
  std::filesystem::remove(path);
  EXPECT_THROW(sha256_of_file(path), DataError);
  EXPECT_THROW(sha256_of_file(testing::TempDir()), DataError) << "a folder";
}

TEST(Hash64, DependsOnBytesAndSeed) {
  EXPECT_EQ(hash64(bytes_of("")), 0x2d06800538d394c2u);  // XXH3's published value
  EXPECT_NE(hash64(bytes_of("a")), hash64(bytes_of("b")));
  EXPECT_NE(hash64(bytes_of("a")), hash64(bytes_of("a"), 1));
}

}  // namespace
}  // namespace outstep
