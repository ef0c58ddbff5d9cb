#include "outstep/data/tar.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <string_view>
#include <vector>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/data/inflate.h"
#include "outstep/io/files.h"

namespace outstep::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBlock = 512;
using Header = std::array<std::byte, kBlock>;

// Fields of a POSIX (ustar) header.
constexpr size_t kNameAt = 0, kNameBytes = 100;
constexpr size_t kSizeAt = 124, kSizeBytes = 12;
constexpr size_t kChecksumAt = 148, kChecksumBytes = 8;
constexpr size_t kTypeAt = 156;
constexpr size_t kMagicAt = 257;
constexpr size_t kPrefixAt = 345, kPrefixBytes = 155;

std::string_view field(const Header& header, size_t at, size_t num_bytes) {
  const std::string_view text(reinterpret_cast<const char*>(header.data()) + at, num_bytes);
  return text.substr(0, std::min(text.find('\0'), num_bytes));
}

// Octal digits between spaces; -1 for anything else.
int64_t octal(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  if (text.empty()) return -1;
  int64_t value = 0;
  for (const char digit : text) {
    if (digit < '0' || digit > '7') return -1;
    value = value * 8 + (digit - '0');
  }
  return value;
}

bool checksum_fits(const Header& header) {
  int64_t sum = 0;
  for (size_t i = 0; i < kBlock; ++i) {
    const bool own = i >= kChecksumAt && i < kChecksumAt + kChecksumBytes;
    sum += own ? ' ' : std::to_integer<int64_t>(header[i]);
  }
  return sum == octal(field(header, kChecksumAt, kChecksumBytes));
}

class Reader {
 public:
  explicit Reader(const fs::path& archive)
      : file_(archive), name_(archive.string()), inflater_(file_.bytes(), name_) {
    if (!is_gzip(file_.bytes())) throw DataError("{}: not a gzipped archive", name_);
  }

  struct Entry {
    std::string path;
    int64_t num_bytes = 0;
    bool is_file = false;
  };
  // False at the end of the archive.
  bool next(Entry& entry) {
    Header header;
    read(header);
    if (std::all_of(header.begin(), header.end(), [](std::byte b) { return b == std::byte{0}; }))
      return false;
    if (!checksum_fits(header)) throw DataError("{}: not a tar archive, or a damaged one", name_);
    entry.num_bytes = octal(field(header, kSizeAt, kSizeBytes));
    if (entry.num_bytes < 0) throw DataError("{}: an entry of the archive has no size", name_);
    const auto type = std::to_integer<char>(header[kTypeAt]);
    entry.is_file = type == '0' || type == '\0';
    entry.path = field(header, kNameAt, kNameBytes);
    const auto prefix = field(header, kPrefixAt, kPrefixBytes);
    if (field(header, kMagicAt, 5) == "ustar" && !prefix.empty()) {
      entry.path = std::string(prefix) + "/" + entry.path;
    }
    return true;
  }

  // The bytes of the entry that next() told of: all, each piece handed to take.
  template <typename Take>
  void read_content(const Entry& entry, Take take) {
    std::vector<std::byte> piece(1 << 16);
    for (int64_t left = entry.num_bytes; left > 0;) {
      const auto count =
          static_cast<size_t>(std::min<int64_t>(left, static_cast<int64_t>(piece.size())));
      read(std::span(piece).first(count));
      take(std::span<const std::byte>(piece).first(count));
      left -= static_cast<int64_t>(count);
    }
    const auto padding = static_cast<size_t>(-entry.num_bytes & static_cast<int64_t>(kBlock - 1));
    read(std::span(piece).first(padding));
  }

 private:
  void read(std::span<std::byte> into) {
    if (inflater_.read(into) != into.size())
      throw DataError("{}: the archive ends in the middle", name_);
  }

  io::MappedFile file_;
  std::string name_;
  Inflater inflater_;
};

}  // namespace

void extract_tar_gz(const fs::path& archive, std::span<const TarMember> wanted,
                    const fs::path& into) {
  Reader reader(archive);
  std::set<std::string> found;
  Reader::Entry entry;
  while (found.size() < wanted.size() && reader.next(entry)) {
    const auto member = std::find_if(wanted.begin(), wanted.end(),
                                     [&](const TarMember& one) { return one.path == entry.path; });
    if (member == wanted.end()) {
      reader.read_content(entry, [](std::span<const std::byte>) {});
      continue;
    }
    if (!entry.is_file || entry.num_bytes != member->num_bytes) {
      throw DataError("{}: {} is a {} of {} bytes; a file of {} is expected", archive.string(),
                      entry.path, entry.is_file ? "file" : "link or folder",
                      with_commas(entry.num_bytes), with_commas(member->num_bytes));
    }
    if (!found.insert(entry.path).second)
      throw DataError("{}: {} is twice in it", archive.string(), entry.path);
    io::AtomicFile file(into / fs::path(member->path).filename());
    reader.read_content(entry, [&](std::span<const std::byte> piece) { file.write(piece); });
    file.commit();
  }
  for (const TarMember& member : wanted) {
    if (!found.contains(member.path))
      throw DataError("{}: {} is not in it", archive.string(), member.path);
  }
}

}  // namespace outstep::data
