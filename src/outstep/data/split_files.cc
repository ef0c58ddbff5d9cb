#include "outstep/data/split_files.h"

#include <algorithm>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"

namespace outstep::data {

namespace fs = std::filesystem;

namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<std::string> those_in(const fs::path& folder, const std::vector<std::string>& names) {
  std::vector<std::string> found;
  for (const std::string& name : names) {
    if (fs::exists(folder / name)) found.push_back(name);
  }
  return found;
}

std::vector<fs::path> inside(const fs::path& folder, const std::vector<std::string>& names) {
  std::vector<fs::path> paths;
  for (const std::string& name : names) paths.push_back(folder / name);
  return paths;
}

void refuse_shared_files(const std::vector<std::string>& train,
                         const std::vector<std::string>& valid) {
  for (const std::string& name : train) {
    if (contains(valid, name)) {
      throw ConfigError(
          "data.train_files and data.valid_files both name \"{}\"; validation needs data that is "
          "not trained on",
          name);
    }
  }
}

}  // namespace

SplitFiles choose_files(const fs::path& path, const WantedFiles& wanted, const UsualNames& usual) {
  if (!fs::is_directory(path)) {
    if (!wanted.train.empty() || !wanted.validation.empty()) {
      throw ConfigError(
          "data.train_files and data.valid_files are names in a folder, but data.path is the file "
          "{}",
          path.string());
    }
    return {.train = {path}, .validation = {}};
  }
  refuse_shared_files(wanted.train, wanted.validation);
  std::vector<std::string> train = wanted.train;
  std::vector<std::string> valid = wanted.validation;
  if (valid.empty()) {
    valid = those_in(path, usual.validation);
    std::erase_if(valid, [&](const std::string& name) { return contains(train, name); });
    valid.resize(std::min<size_t>(valid.size(), 1));
  }
  if (train.empty()) {
    train = those_in(path, usual.train);
    if (train.empty()) train = those_in(path, usual.train_else);
    std::erase_if(train, [&](const std::string& name) { return contains(valid, name); });
    if (train.empty()) {
      throw DataError("{}: no file to train on ({} expected); {}.\n  data.train_files names others",
                      path.string(), join(usual.train, ", "), contents_of(path));
    }
  }
  return {.train = inside(path, train), .validation = inside(path, valid)};
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
