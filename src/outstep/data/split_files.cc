#include "outstep/data/split_files.h"

#include <algorithm>
#include <span>
#include <utility>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"
#include "outstep/io/files.h"

namespace outstep::data {

namespace fs = std::filesystem;

namespace {

// A file has more names than one: "a.txt", "./a.txt".
bool contains(std::span<const fs::path> files, const fs::path& file) {
  return std::any_of(files.begin(), files.end(), [&](const fs::path& other) {
    return other.lexically_normal() == file.lexically_normal();
  });
}

std::vector<fs::path> inside(const fs::path& folder, const std::vector<std::string>& names) {
  std::vector<fs::path> files;
  for (const std::string& name : names) files.push_back(folder / name);
  return files;
}

std::vector<fs::path> those_in(const fs::path& folder, const std::vector<std::string>& names) {
  std::vector<fs::path> files = inside(folder, names);
  std::erase_if(files, [](const fs::path& file) { return !io::exists(file); });
  return files;
}

void refuse_repeated(const fs::path& folder, const std::vector<std::string>& names,
                     const char* key) {
  const std::vector<fs::path> files = inside(folder, names);
  for (size_t i = 0; i < files.size(); ++i) {
    if (contains(std::span(files).first(i), files[i])) {
      throw ConfigError("data.{} names the file \"{}\" twice; name each once", key, names[i]);
    }
  }
}

void refuse_shared(const fs::path& folder, const WantedFiles& wanted) {
  const std::vector<fs::path> validation = inside(folder, wanted.validation);
  for (const std::string& name : wanted.train) {
    if (contains(validation, folder / name)) {
      throw ConfigError(
          "data.train_files and data.valid_files both name \"{}\"; validation needs data that is "
          "not trained on",
          name);
    }
  }
}

}  // namespace

SplitFiles choose_files(const fs::path& path, const WantedFiles& wanted, const UsualNames& usual) {
  if (!io::is_folder(path)) {
    if (!wanted.train.empty() || !wanted.validation.empty()) {
      throw ConfigError(
          "data.train_files and data.valid_files are names in a folder, but data.path is the file "
          "{}",
          path.string());
    }
    return {.train = {path}, .validation = {}};
  }
  refuse_repeated(path, wanted.train, "train_files");
  refuse_repeated(path, wanted.validation, "valid_files");
  refuse_shared(path, wanted);
  std::vector<fs::path> train = inside(path, wanted.train);
  std::vector<fs::path> valid = inside(path, wanted.validation);
  if (valid.empty()) {
    valid = those_in(path, usual.validation);
    std::erase_if(valid, [&](const fs::path& file) { return contains(train, file); });
    valid.resize(std::min<size_t>(valid.size(), 1));
  }
  if (train.empty()) {
    train = those_in(path, usual.train);
    if (train.empty()) train = those_in(path, usual.train_else);
    std::erase_if(train, [&](const fs::path& file) { return contains(valid, file); });
    if (train.empty()) {
      throw DataError("{}: no file to train on ({} expected); {}.\n  data.train_files names others",
                      path.string(), join(usual.train, ", "), contents_of(path));
    }
  }
  return {.train = std::move(train), .validation = std::move(valid)};
}

std::string contents_of(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    names.push_back(entry.path().filename().string());
  }
  if (names.empty()) return "the folder is empty";
  std::sort(names.begin(), names.end());
  constexpr size_t kShown = 8;
  const size_t hidden = names.size() > kShown ? names.size() - kShown : 0;
  names.resize(names.size() - hidden);
  return fmt::format("it holds {}{}", join(names, ", "),
                     hidden > 0 ? fmt::format(" and {} more", hidden) : "");
}

}  // namespace outstep::data
