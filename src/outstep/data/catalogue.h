#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace outstep::data {

// A file of a set, as it lies in the set's folder.
struct CatalogueFile {
  std::string name;
  int64_t num_bytes = 0;
  // Empty: known only as part of its archive, which is checked.
  std::string sha256 = {};
  // Of a .gz: what it decompresses to; a copy that was compressed anew is as good.
  std::string content_sha256 = {};
  // Where it comes from; empty: from the archive, under member, or from nowhere (only with --from).
  std::vector<std::string> addresses = {};
  std::string member = {};
};

// A .tar.gz that holds all files with a member name.
struct CatalogueArchive {
  std::string name;
  int64_t num_bytes = 0;
  std::string sha256;
  std::vector<std::string> addresses;
};

// A set that `outstep data get NAME` can bring.
struct CatalogueEntry {
  std::string name;                             // as in data.name, where it has one
  std::string folder;                           // below OUTSTEP_DATA
  std::string what = {};                        // one line
  std::string licence = {};                     // one line
  std::string source = {};                      // who made it, and the page that says so
  std::vector<CatalogueArchive> archives = {};  // none or one
  std::vector<CatalogueFile> files = {};

  int64_t download_bytes() const;
  bool has_address() const;
};

const std::vector<CatalogueEntry>& catalogue();

// By name; case, '-' and '_' do not matter ("CIFAR-10" is cifar10). Throws ConfigError with the
// nearest spelling.
const CatalogueEntry& find_in_catalogue(const std::string& name);

}  // namespace outstep::data
