#include "outstep/train/checkpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <stdio.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ranges>
#include <set>

#include "outstep/base/errors.h"
#include "outstep/io/files.h"
#include "outstep/train/agree.h"
#include "outstep/train/averaged_buffers.h"
#include "outstep/train/gathered_model.h"
#include "outstep/train/manifest.h"
#include "outstep/train/state_file.h"

namespace outstep::train {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kTemporary = ".step-";

std::string folder_name(int64_t step) { return fmt::format("step-{:08}", step); }

fs::path checkpoints_of(const fs::path& run_folder) { return run_folder / "checkpoints"; }

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw DataError("cannot make the folder {}: {}", folder.string(), error.message());
}

// DONE goes first: a removal that is cut short leaves nothing that looks complete.
void remove_checkpoint(const fs::path& folder) {
  std::error_code error;
  fs::remove(folder / "DONE", error);
  fs::remove_all(folder, error);
  if (error) throw DataError("cannot remove {}: {}", folder.string(), error.message());
}

// Puts the finished folder in its place. One that is there already (this step was saved before) is
// swapped out in one move and removed.
void move_into_place(const fs::path& finished, const fs::path& place) {
  std::error_code error;
  if (fs::exists(place) &&
      renameat2(AT_FDCWD, finished.c_str(), AT_FDCWD, place.c_str(), RENAME_EXCHANGE) == 0) {
    remove_checkpoint(finished);
  } else {
    if (fs::exists(place)) remove_checkpoint(place);
    fs::rename(finished, place, error);
  }
  if (error) {
    throw DataError("cannot rename {} to {}: {}", finished.string(), place.string(),
                    error.message());
  }
  io::sync_folder(place.parent_path());
}

void write_state(const fs::path& path, const Assembly& assembly) {
  StateFileWriter writer(assembly.place.replica);
  writer.save("sync", *assembly.sync);
  writer.save("engine", *assembly.engine);
  if (assembly.mixer) writer.save("mixer", *assembly.mixer);
  writer.write(path);
}

void write_model(const fs::path& folder, const Assembly& assembly, const NamedTensors& tensors) {
  make_folder(folder);
  io::write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  io::write_text_atomically(folder / "config.json", assembly.model->config().dump(2) + "\n");
}

void write_manifest(const fs::path& folder, const Position& position, const Assembly& assembly,
                    std::optional<double> validation_loss) {
  Manifest manifest;
  manifest.step = position.step;
  manifest.progress = position.progress;
  manifest.mesh = assembly.mesh;
  manifest.members = assembly.member_ids;
  manifest.validation_loss = validation_loss;
  for (const std::string& name : manifest.file_names()) {
    manifest.files.push_back(describe_file(folder, name));
  }
  manifest.write(folder);
}

// Called on every rank; only the world's rank 0 makes, finishes and moves the folder.
void save_together(const fs::path& temporary, const fs::path& place, const Position& position,
                   const Recipe& recipe, Assembly& assembly,
                   std::optional<double> validation_loss) {
  comm::Group& world = *assembly.world_group;
  const bool is_first = world.rank() == 0;
  assembly.engine->pause();
  together(world, [&] {
    if (!is_first) return;
    fs::remove_all(temporary);  // left by a run that was killed
    make_folder(temporary);
  });
  together(world, [&] { write_state(temporary / state_name(world.rank()), assembly); });
  {
    const AveragedBuffers buffers(*assembly.params, *assembly.control_group);
    const NamedTensors tensors = gather_stages(assembly);
    together(world, [&] {
      if (assembly.is_first_of_member()) {
        write_model(member_folder(temporary, assembly.mesh.members, assembly.member_id()), assembly,
                    tensors);
      }
      if (!is_first) return;
      io::write_text_atomically(temporary / "recipe.toml", recipe.settings.resolved());
    });
  }
  together(world, [&] {
    if (!is_first) return;
    write_manifest(temporary, position, assembly, validation_loss);
    io::sync_folder(temporary);
    io::write_text_atomically(temporary / "DONE", fmt::format("step {}\n", position.step));
    io::sync_folder(temporary);
    move_into_place(temporary, place);
  });
}

std::string last_checkpoint_text(const fs::path& run_folder) {
  const auto earlier = list_checkpoints(run_folder);
  if (earlier.empty()) return "there is no earlier one";
  return fmt::format("the last one is {}, unharmed", earlier.back().folder.string());
}

void require_fits(const fs::path& folder, const Manifest& manifest, const Assembly& assembly) {
  if (manifest.mesh.stages != assembly.mesh.stages) {
    throw DataError("{}: saved by {}; the number of stages must be this run's ({})",
                    folder.string(), manifest.mesh.describe(), assembly.mesh.describe());
  }
  for (const int member : assembly.member_ids) {
    if (manifest.place_of_member(member)) continue;
    throw DataError(
        "{}: saved by members {}, not by member {}; go on from a checkpoint that has it, or "
        "without it, as ensemble.lost says",
        folder.string(), fmt::join(manifest.members, ", "), member);
  }
}

void load_state(const fs::path& folder, const Manifest& manifest, Assembly& assembly) {
  comm::Mesh::Place place = assembly.place;
  place.member = manifest.place_of_member(assembly.member_id()).value();
  const comm::Mesh& saved = manifest.mesh;
  std::vector<fs::path> files;
  for (int replica = 0; replica < saved.replicas; ++replica) {
    const int rank =
        saved.rank_of({.member = place.member, .replica = replica, .stage = place.stage});
    files.push_back(folder / state_name(rank));
  }
  const bool is_same_world = saved.replicas == assembly.mesh.replicas;
  StateFileReader reader(files, is_same_world ? place.replica : -1);
  reader.load("sync", *assembly.sync);
  reader.load("engine", *assembly.engine);
  if (assembly.mixer) reader.load("mixer", *assembly.mixer);
}

// The number in a name that is the prefix and digits, nothing else: what lies beside checkpoints is
// the user's.
std::optional<int64_t> step_in(const fs::path& folder, std::string_view prefix) {
  const std::string name = folder.filename().string();
  if (!name.starts_with(prefix)) return std::nullopt;
  const std::string digits = name.substr(prefix.size());
  const bool is_number = !digits.empty() && digits.size() <= 18 &&
                         digits.find_first_not_of("0123456789") == std::string::npos;
  return is_number ? std::optional<int64_t>(std::stoll(digits)) : std::nullopt;
}

// Of a complete checkpoint.
std::optional<int64_t> step_of(const fs::path& folder) {
  const auto step = step_in(folder, kPrefix);
  return step && fs::exists(folder / "DONE") ? step : std::nullopt;
}

// Made by a save; a link was made by somebody else, and what it leads to is not ours to remove.
bool is_own_folder(const fs::path& folder) {
  return fs::symlink_status(folder).type() == fs::file_type::directory &&
         (step_in(folder, kPrefix) || step_in(folder, kTemporary));
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) entries.push_back(entry.path());
  return entries;
}

}  // namespace

std::vector<CheckpointInfo> list_checkpoints(const fs::path& run_folder) {
  std::vector<CheckpointInfo> checkpoints;
  for (const fs::path& folder : entries_of(checkpoints_of(run_folder))) {
    const auto step = step_of(folder);
    if (!step) continue;
    CheckpointInfo info;
    info.folder = folder;
    info.step = *step;
    try {
      const Manifest manifest = Manifest::read(folder);
      info.world_size = manifest.mesh.size();
      info.validation_loss = manifest.validation_loss;
    } catch (const DataError&) {
      // Listed all the same: whoever loads it is told what is wrong.
    }
    checkpoints.push_back(std::move(info));
  }
  std::ranges::sort(checkpoints, {}, &CheckpointInfo::step);
  return checkpoints;
}

fs::path member_folder(const fs::path& checkpoint_folder, int num_members, int member) {
  return num_members == 1 ? checkpoint_folder
                          : checkpoint_folder / fmt::format("member-{:02}", member);
}

fs::path save_checkpoint(const fs::path& run_folder, const Position& position, const Recipe& recipe,
                         Assembly& assembly, std::optional<double> validation_loss) {
  const fs::path folder = checkpoints_of(run_folder);
  const fs::path temporary = folder / ("." + folder_name(position.step));
  const fs::path place = folder / folder_name(position.step);
  const bool is_first = assembly.world_group->rank() == 0;
  try {
    save_together(temporary, place, position, recipe, assembly, validation_loss);
  } catch (const DataError& error) {
    // Every rank comes here, after the same phase.
    std::error_code ignored;
    if (is_first) fs::remove_all(temporary, ignored);
    throw DataError("cannot save the checkpoint of step {}: {}; {}", position.step, error.what(),
                    last_checkpoint_text(run_folder));
  }
  return place;
}

Position load_checkpoint(const fs::path& checkpoint_folder, Assembly& assembly) {
  comm::Group& world = *assembly.world_group;
  Manifest manifest;
  together(world, [&] {
    manifest = Manifest::read_complete(checkpoint_folder);
    manifest.verify(checkpoint_folder, static_cast<size_t>(world.rank()),
                    static_cast<size_t>(world.size()));
  });
  together(world, [&] {
    require_fits(checkpoint_folder, manifest, assembly);
    const fs::path own =
        member_folder(checkpoint_folder, manifest.mesh.members, assembly.member_id());
    assembly.params->load(io::Safetensors(own / "model.safetensors"));
    load_state(checkpoint_folder, manifest, assembly);
  });
  return {.step = manifest.step, .progress = manifest.progress};
}

void prune_checkpoints(const fs::path& run_folder, int64_t keep, bool keep_best) {
  const auto checkpoints = list_checkpoints(run_folder);
  std::set<fs::path> kept;
  const auto num_old = std::max<int64_t>(std::ssize(checkpoints) - keep, 0);
  for (const CheckpointInfo& info : checkpoints | std::views::drop(num_old)) {
    kept.insert(info.folder);
  }
  const CheckpointInfo* best = nullptr;
  for (const CheckpointInfo& info : checkpoints) {
    if (!info.validation_loss) continue;
    if (!best || *info.validation_loss < *best->validation_loss) best = &info;
  }
  if (keep_best && best) kept.insert(best->folder);
  for (const fs::path& folder : entries_of(checkpoints_of(run_folder))) {
    if (is_own_folder(folder) && !kept.contains(folder)) remove_checkpoint(folder);
  }
}

}  // namespace outstep::train
