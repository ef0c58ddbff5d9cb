#include "outstep/data/fetch.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>

#include "outstep/base/errors.h"
#include "outstep/base/hash.h"
#include "outstep/base/text.h"
#include "outstep/data/download.h"
#include "outstep/data/inflate.h"
#include "outstep/data/tar.h"
#include "outstep/io/files.h"

namespace outstep::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPiece = 1 << 20;

std::string sha256_of_content(std::span<const std::byte> compressed, const std::string& name) {
  Inflater inflater(compressed, name);
  Sha256 hash;
  std::vector<std::byte> piece(kPiece);
  while (const size_t count = inflater.read(piece)) hash.update(std::span(piece).first(count));
  return hash.hex();
}

// Whether a file is what the catalogue says: the same bytes, or the same once decompressed. "" or
// what is wrong. Throws DataError if it cannot be read or decompressed.
std::string compare(const CatalogueFile& wanted, const fs::path& path) {
  const io::MappedFile file(path);
  const auto bytes = file.bytes();
  if (!wanted.content_sha256.empty()) {
    const std::string found =
        is_gzip(bytes) ? sha256_of_content(bytes, path.string()) : sha256_of_file(path);
    if (found == wanted.content_sha256) return "";
    return fmt::format("its content has the SHA-256 {}, but {} is expected", found,
                       wanted.content_sha256);
  }
  const auto size = static_cast<int64_t>(bytes.size());
  if (size != wanted.num_bytes) {
    return fmt::format("it has {} bytes, but {} are expected", with_commas(size),
                       with_commas(wanted.num_bytes));
  }
  if (wanted.sha256.empty()) return "";
  const std::string found = sha256_of_file(path);
  if (found == wanted.sha256) return "";
  return fmt::format("its SHA-256 is {}, but {} is expected", found, wanted.sha256);
}

// The same, where what cannot be read is wrong, too.
std::string difference(const CatalogueFile& wanted, const fs::path& path) {
  try {
    return compare(wanted, path);
  } catch (const DataError& error) {
    return error.what();
  }
}

// The file under its name, or uncompressed under its name without .gz; nothing if neither is there.
std::optional<fs::path> find_file(const fs::path& folder, const CatalogueFile& file) {
  if (io::exists(folder / file.name)) return folder / file.name;
  const fs::path name(file.name);
  if (name.extension() == ".gz" && io::exists(folder / name.stem())) return folder / name.stem();
  return std::nullopt;
}

class Fetch {
 public:
  Fetch(const CatalogueEntry& entry, const FetchOptions& options)
      : entry_(entry), options_(options) {
    check(!options.data_root.empty(), "a fetch knows its data root");
    report_.folder = options.data_root / entry.folder;
  }

  FetchReport run() {
    std::vector<const CatalogueFile*> lacking;
    for (const CatalogueFile& file : entry_.files) {
      if (is_there(file)) {
        report_.already_there.push_back(file.name);
      } else {
        lacking.push_back(&file);
      }
    }
    if (options_.from.empty()) {
      download_all(lacking);
    } else {
      copy_all(lacking);
    }
    return std::move(report_);
  }

 private:
  bool is_there(const CatalogueFile& file) const {
    const auto path = find_file(report_.folder, file);
    return path && difference(file, *path).empty();
  }

  void say(const std::string& file, int64_t done, int64_t total) const {
    if (options_.on_progress)
      options_.on_progress({.file = file, .done_bytes = done, .total_bytes = total});
    if (options_.stop != nullptr && options_.stop->load()) {
      throw DataError("{}: stopped; the same command goes on from there", report_.folder.string());
    }
  }

  // ---- From the net ----

  void download_one(const std::string& name, int64_t num_bytes, const std::string& sha256,
                    const std::vector<std::string>& addresses) const {
    data::download(
        report_.folder / name,
        {.addresses = addresses,
         .num_bytes = num_bytes,
         .sha256 = sha256,
         .on_progress =
             [&](int64_t done, int64_t total) {
               if (options_.on_progress) {
                 options_.on_progress({.file = name, .done_bytes = done, .total_bytes = total});
               }
             },
         .stop = options_.stop});
  }

  void download_all(const std::vector<const CatalogueFile*>& lacking) {
    if (!lacking.empty() && !entry_.has_address()) {
      throw DataError(
          "\"{}\" has no public address to fetch it from; outstep data get {} --from FOLDER takes "
          "it from a folder that has it",
          entry_.name, entry_.name);
    }
    std::vector<const CatalogueFile*> in_archive;
    for (const CatalogueFile* file : lacking) {
      if (!file->member.empty()) {
        in_archive.push_back(file);
        continue;
      }
      download_one(file->name, file->num_bytes, file->sha256, file->addresses);
      report_.fetched.push_back(file->name);
    }
    for (const CatalogueArchive& archive : entry_.archives) {
      if (!in_archive.empty()) unpack_download(archive, in_archive);
      remove(report_.folder / archive.name);  // or what an interruption left of an earlier call
    }
  }

  // An interruption while it is unpacked leaves a whole archive: that is not downloaded again.
  void unpack_download(const CatalogueArchive& archive,
                       const std::vector<const CatalogueFile*>& files) {
    const fs::path path = report_.folder / archive.name;
    if (!io::exists(path) || sha256_of_file(path) != archive.sha256) {
      download_one(archive.name, archive.num_bytes, archive.sha256, archive.addresses);
    }
    unpack(path, files);
  }

  static void remove(const fs::path& path) {
    std::error_code error;
    fs::remove(path, error);
    if (error) throw DataError("{}: cannot be removed: {}", path.string(), error.message());
  }

  void unpack(const fs::path& archive, const std::vector<const CatalogueFile*>& files) {
    say(archive.filename().string(), 0, 0);
    std::vector<TarMember> members;
    for (const CatalogueFile* file : files)
      members.push_back({.path = file->member, .num_bytes = file->num_bytes});
    io::make_folder(report_.folder);
    extract_tar_gz(archive, members, report_.folder);
    for (const CatalogueFile* file : files) report_.fetched.push_back(file->name);
  }

  // ---- From a folder ----

  std::array<fs::path, 2> places() const { return {options_.from, options_.from / entry_.folder}; }

  void copy_all(const std::vector<const CatalogueFile*>& lacking) {
    if (!io::is_folder(options_.from))
      throw DataError("{}: --from needs a folder", options_.from.string());
    std::vector<const CatalogueFile*> missing;
    for (const CatalogueFile* file : lacking) {
      if (!copy_one(*file)) missing.push_back(file);
    }
    if (!missing.empty() && unpack_local(missing)) missing.clear();
    for (const CatalogueFile* file : missing) report_.missing.push_back(file->name);
    if (report_.missing.size() == entry_.files.size()) {
      throw DataError("no file of \"{}\" is in {} or {}; looked for {}", entry_.name,
                      places()[0].string(), places()[1].string(), join(report_.missing, ", "));
    }
  }

  bool copy_one(const CatalogueFile& file) {
    for (const fs::path& place : places()) {
      const auto source = find_file(place, file);
      if (!source) continue;
      const std::string wrong = difference(file, *source);
      if (!wrong.empty())
        throw DataError("{}: not the file of \"{}\": {}", source->string(), entry_.name, wrong);
      copy(*source, report_.folder / source->filename());
      report_.fetched.push_back(file.name);
      return true;
    }
    return false;
  }

  void copy(const fs::path& source, const fs::path& target) const {
    const io::MappedFile file(source);
    const auto bytes = file.bytes();
    const auto say_done = [&](size_t done) {
      say(target.filename().string(), static_cast<int64_t>(done),
          static_cast<int64_t>(bytes.size()));
    };
    say_done(0);  // who is asked to stop by now makes no folder
    io::make_folder(report_.folder);
    io::AtomicFile copy(target);
    for (size_t done = 0; done < bytes.size();) {
      const auto piece = bytes.subspan(done, std::min(kPiece, bytes.size() - done));
      copy.write(piece);
      say_done(done += piece.size());
    }
    copy.commit();
  }

  // Takes the files out of the archive, if that is there.
  bool unpack_local(const std::vector<const CatalogueFile*>& missing) {
    for (const CatalogueArchive& archive : entry_.archives) {
      for (const fs::path& place : places()) {
        const fs::path path = place / archive.name;
        if (!io::exists(path)) continue;
        const std::string found = sha256_of_file(path);
        if (found != archive.sha256) {
          throw DataError("{}: its SHA-256 is {}, but {} is expected", path.string(), found,
                          archive.sha256);
        }
        unpack(path, missing);
        return true;
      }
    }
    return false;
  }

  const CatalogueEntry& entry_;
  const FetchOptions& options_;
  FetchReport report_;
};

}  // namespace

FetchReport fetch(const CatalogueEntry& entry, const FetchOptions& options) {
  return Fetch(entry, options).run();
}

}  // namespace outstep::data
