#include "outstep/train/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "outstep/base/errors.h"
#include "outstep/base/hash.h"
#include "outstep/base/text.h"
#include "outstep/base/version.h"
#include "outstep/io/files.h"
#include "outstep/io/json.h"
#include "outstep/train/checkpoint.h"

namespace outstep::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "outstep checkpoint";
constexpr int64_t kVersion = 2;

// A file lies in the folder or in a folder of a member there; its name must not lead out.
bool is_inside(const std::string& name) {
  const std::string folder = name.substr(0, name.find('/'));
  const std::string file = folder.size() < name.size() ? name.substr(folder.size() + 1) : folder;
  for (const std::string& part : {folder, file}) {
    if (part.empty() || part == "." || part == ".." || part.find('/') != std::string::npos) {
      return false;
    }
  }
  return true;
}

int64_t whole_number(const Json& json, const char* name) {
  const Json& value = json.at(name);
  if (!value.is_number_integer()) throw DataError("its {} is {}", name, value.dump());
  return value.get<int64_t>();
}

// Every rank has a file, so a mesh of more ranks is none. What is made of its size fits then.
comm::Mesh parse_mesh(const Json& json, int64_t num_files) {
  int64_t num_ranks = 1;
  const auto axis = [&](const char* name) {
    const int64_t size = whole_number(json, name);
    if (size < 1 || size > num_files / num_ranks) {
      throw DataError("its mesh cannot be {}: it has {} files", json.dump(), num_files);
    }
    num_ranks *= size;
    return static_cast<int>(size);
  };
  return {.members = axis("members"), .replicas = axis("replicas"), .stages = axis("stages")};
}

// What is not listed would be used unverified.
void require_files(const Manifest& manifest) {
  std::set<std::string> listed;
  for (const Manifest::File& file : manifest.files) listed.insert(file.name);
  for (const std::string& name : manifest.file_names()) {
    if (!listed.contains(name)) throw DataError("it does not list {}", name);
  }
}

// Manifests that do not say have all members, counted from 0.
std::vector<int> parse_members(const Json& json, int num_members) {
  std::vector<int> members(static_cast<size_t>(num_members));
  std::iota(members.begin(), members.end(), 0);
  if (!json.contains("members")) return members;
  members = json["members"].get<std::vector<int>>();
  if (std::ssize(members) != num_members || members.front() < 0 ||
      std::ranges::adjacent_find(members, std::greater_equal<>()) != members.end()) {
    throw DataError("its mesh has {} members, they cannot be {}", num_members,
                    json["members"].dump());
  }
  return members;
}

Manifest parse(const Json& json) {
  if (json.at("format").get<std::string>() != kFormat) throw DataError("not of a checkpoint");
  const int64_t version = whole_number(json, "version");
  if (version != kVersion) {
    throw DataError("of version {}, this program reads version {}", version, kVersion);
  }
  Manifest manifest;
  manifest.step = whole_number(json, "step");
  manifest.progress = json.at("progress").get<double>();
  if (manifest.step < 0 || !(manifest.progress >= 0)) {
    throw DataError("its step or progress cannot be");
  }
  if (const Json& loss = json.at("validation_loss"); !loss.is_null()) {
    manifest.validation_loss = loss.get<double>();
  }
  for (const Json& file : json.at("files")) {
    manifest.files.push_back({.name = file.at("name").get<std::string>(),
                              .num_bytes = whole_number(file, "bytes"),
                              .sha256 = file.at("sha256").get<std::string>()});
    if (!is_inside(manifest.files.back().name)) {
      throw DataError("\"{}\" is not the name of a file in it", manifest.files.back().name);
    }
  }
  manifest.mesh = parse_mesh(json.at("mesh"), std::ssize(manifest.files));
  manifest.members = parse_members(json, manifest.mesh.members);
  require_files(manifest);
  return manifest;
}

}  // namespace

Manifest Manifest::read(const fs::path& folder) {
  const fs::path path = folder / "manifest.json";
  const std::string text = io::read_text(path);
  try {
    return parse(io::parse_json(text, path.filename()));
  } catch (const nlohmann::json::exception& error) {
    throw DataError("{}: not a manifest: {}", path.string(), error.what());
  } catch (const DataError& error) {
    throw DataError("{}: not a manifest: {}", path.string(), error.what());
  }
}

Manifest Manifest::read_complete(const fs::path& folder) {
  if (!fs::exists(folder / "DONE")) {
    throw DataError("{}: not a complete checkpoint (it has no DONE)", folder.string());
  }
  return read(folder);
}

void Manifest::write(const fs::path& folder) const {
  Json json;
  json["format"] = kFormat;
  json["version"] = kVersion;
  json["step"] = step;
  json["progress"] = progress;
  json["mesh"] = {{"members", mesh.members}, {"replicas", mesh.replicas}, {"stages", mesh.stages}};
  json["members"] = members;
  json["validation_loss"] = validation_loss ? Json(*validation_loss) : Json();
  json["outstep"] = build_info().version;
  json["commit"] = build_info().commit;
  json["torch"] = build_info().torch_version;
  json["files"] = Json::array();
  for (const File& file : files) {
    json["files"].push_back(
        {{"name", file.name}, {"bytes", file.num_bytes}, {"sha256", file.sha256}});
  }
  io::write_text_atomically(folder / "manifest.json", json.dump(2) + "\n");
}

std::vector<std::string> Manifest::file_names() const {
  std::vector<std::string> names;
  for (const int member : members) {
    const fs::path folder = member_folder({}, mesh.members, member);
    names.push_back(folder / "model.safetensors");
    names.push_back(folder / "config.json");
  }
  names.emplace_back("recipe.toml");
  for (int rank = 0; rank < mesh.size(); ++rank) names.push_back(state_name(rank));
  return names;
}

std::optional<int> Manifest::place_of_member(int id) const {
  const auto found = std::ranges::find(members, id);
  if (found == members.end()) return std::nullopt;
  return static_cast<int>(found - members.begin());
}

void Manifest::verify(const fs::path& folder, size_t first, size_t stride) const {
  for (size_t i = first; i < files.size(); i += stride) {
    const fs::path path = folder / files[i].name;
    std::error_code error;
    const auto size = static_cast<int64_t>(fs::file_size(path, error));
    if (error) throw DataError("{}: {}", path.string(), error.message());
    if (size != files[i].num_bytes) {
      throw DataError("{}: {} bytes, the manifest says {}: the file was cut off or replaced",
                      path.string(), with_commas(size), with_commas(files[i].num_bytes));
    }
    if (sha256_of_file(path) != files[i].sha256) {
      throw DataError("{}: its SHA-256 is not the manifest's: the file was altered", path.string());
    }
  }
}

std::string state_name(int rank) { return fmt::format("state-{:05}.safetensors", rank); }

Manifest::File describe_file(const fs::path& folder, const std::string& name) {
  const fs::path path = folder / name;
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) throw DataError("{}: {}", path.string(), error.message());
  return {.name = name, .num_bytes = static_cast<int64_t>(size), .sha256 = sha256_of_file(path)};
}

}  // namespace outstep::train
