#include "outstep/train/state_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include "outstep/base/errors.h"

namespace outstep::train {
namespace {

std::optional<int64_t> parse_integer(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

}  // namespace

void StateFileWriter::save(const std::string& component, const io::Stateful& stateful) {
  component_ = component;
  stateful.save(*this);
}

void StateFileWriter::write(const std::filesystem::path& path) const {
  io::write_safetensors(path, entries_, totals_);
}

void StateFileWriter::add(const std::string& kind, const std::string& name,
                          const at::Tensor& value) {
  entries_.emplace_back(fmt::format("{}:{}/{}", kind, component_, name), value);
}

void StateFileWriter::shared(const std::string& name, const at::Tensor& value) {
  if (replica_ == 0) add("shared", name, value);
}

void StateFileWriter::shared(const std::string& name, int64_t value) {
  shared(name, at::full({}, value, at::kLong));
}

void StateFileWriter::slice(const std::string& name, const at::Tensor& values, int64_t begin,
                            int64_t total) {
  check(begin >= 0 && begin + values.numel() <= total, "a slice lies within its vector");
  totals_[fmt::format("total:{}/{}", component_, name)] = std::to_string(total);
  const bool is_everything = values.numel() == total;
  if (values.numel() == 0 || (is_everything && replica_ != 0)) return;
  add("slice", fmt::format("{}@{}", name, begin), values);
}

void StateFileWriter::local(const std::string& name, const at::Tensor& value) {
  add("local", name, value);
}

void StateFileWriter::local(const std::string& name, int64_t value) {
  local(name, at::full({}, value, at::kLong));
}

StateFileReader::StateFileReader(const std::vector<std::filesystem::path>& files, int own_replica)
    : own_replica_(own_replica) {
  check(!files.empty() && own_replica < static_cast<int>(files.size()), "files of all replicas");
  for (size_t i = 0; i < files.size(); ++i) {
    files_.emplace_back(files[i]);
    index_slices(i);
  }
  for (auto& [name, pieces] : slices_) {
    std::ranges::sort(pieces, {}, &Piece::begin);
  }
}

void StateFileReader::index_slices(size_t file) {
  constexpr std::string_view kSlice = "slice:";
  constexpr std::string_view kTotal = "total:";
  const std::string path = files_[file].path().string();
  for (const auto& [entry, info] : files_[file].tensors()) {
    if (!entry.starts_with(kSlice)) continue;
    const size_t at = entry.rfind('@');
    const auto begin = parse_integer(std::string_view(entry).substr(at + 1));
    if (at == std::string::npos || !begin || info.shape.size() != 1 ||
        *begin > std::numeric_limits<int64_t>::max() - info.shape[0]) {
      throw DataError("{}: \"{}\" is not a slice of a flat vector", path, entry);
    }
    slices_[entry.substr(kSlice.size(), at - kSlice.size())].push_back(
        {.begin = *begin, .end = *begin + info.shape[0], .file = file, .entry = entry});
  }
  for (const auto& [key, text] : files_[file].metadata()) {
    if (!key.starts_with(kTotal)) continue;
    const auto total = parse_integer(text);
    if (!total) throw DataError("{}: \"{}\" is \"{}\", not a length", path, key, text);
    totals_[key.substr(kTotal.size())] = *total;
  }
}

void StateFileReader::load(const std::string& component, io::Stateful& stateful) {
  component_ = component;
  stateful.load(*this);
}

at::Tensor StateFileReader::entry(size_t file, const std::string& kind,
                                  const std::string& name) const {
  // Copied: the file is mapped read-only.
  return files_[file].tensor(fmt::format("{}:{}/{}", kind, component_, name)).clone();
}

int64_t StateFileReader::integer(size_t file, const std::string& kind,
                                 const std::string& name) const {
  const at::Tensor value = entry(file, kind, name);
  if (value.dim() != 0 || value.scalar_type() != at::kLong) {
    throw DataError("{}: \"{}:{}/{}\" is not an integer", files_[file].path().string(), kind,
                    component_, name);
  }
  return value.item<int64_t>();
}

at::Tensor StateFileReader::shared(const std::string& name) { return entry(0, "shared", name); }
int64_t StateFileReader::shared_int(const std::string& name) { return integer(0, "shared", name); }

bool StateFileReader::has_shared(const std::string& name) const {
  return files_.front().tensors().contains(fmt::format("shared:{}/{}", component_, name));
}

at::Tensor StateFileReader::local(const std::string& name) {
  check(has_local(), "local entries are read in a world of the same shape only");
  return entry(static_cast<size_t>(own_replica_), "local", name);
}

int64_t StateFileReader::local_int(const std::string& name) {
  check(has_local(), "local entries are read in a world of the same shape only");
  return integer(static_cast<size_t>(own_replica_), "local", name);
}

void StateFileReader::slice(const std::string& name, at::Tensor into, int64_t begin,
                            int64_t total) {
  const std::string full = component_ + "/" + name;
  const std::string folder = files_.front().path().parent_path().string();
  const auto known = totals_.find(full);
  if (known == totals_.end()) throw DataError("{}: no state \"{}\"", folder, full);
  if (known->second != total) {
    throw DataError("{}: state \"{}\" has {} elements, expected {}: it is of another model", folder,
                    full, known->second, total);
  }
  const int64_t end = begin + into.numel();
  int64_t filled = begin;
  for (const Piece& piece : slices_[full]) {
    if (piece.end <= filled || piece.begin >= end) continue;
    if (piece.begin > filled) break;  // a hole
    const at::Tensor values = files_[piece.file].tensor(piece.entry);
    if (values.scalar_type() != into.scalar_type()) {
      throw DataError("{}: \"{}\" is {}, expected {}", files_[piece.file].path().string(),
                      piece.entry, at::toString(values.scalar_type()),
                      at::toString(into.scalar_type()));
    }
    const int64_t until = std::min(piece.end, end);
    into.narrow(0, filled - begin, until - filled)
        .copy_(values.narrow(0, filled - piece.begin, until - filled));
    filled = until;
  }
  if (filled < end) {
    throw DataError("{}: state \"{}\" has no elements {} to {}", folder, full, filled, end);
  }
}

}  // namespace outstep::train
