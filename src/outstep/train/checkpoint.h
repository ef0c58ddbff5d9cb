#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "outstep/train/assembly.h"

// A checkpoint is a folder:
//
//   step-00000400/
//     model.safetensors  config.json        parameters and (averaged over replicas) buffers, as
//                                           exported
//     state-RANK.safetensors                what each rank holds beside them (state_file.h)
//     recipe.toml                           as resolved
//     manifest.json                         step, mesh, every file's size and SHA-256 (manifest.h)
//     DONE                                  written last: a folder without it does not exist
//
// Of a population, each member has a folder with its own model.safetensors and config.json:
// member-00, member-01, … Those of a checkpoint may be more than a run has: of members that were
// lost since.
//
// All is written into a temporary folder beside it, fsynced and renamed; a save that fails (a full
// disk) leaves the earlier checkpoints as they were and throws DataError on every rank. State is
// kept by flat index, not by rank: another number of replicas can read it (then without local
// entries). The folder is on a disk that all ranks share.

namespace outstep::train {

// How far a run has come.
struct Position {
  int64_t step = 0;  // committed updates
  // The same in steps of the recipe, train.accumulation micro-batches a replica: a method that
  // commits more of them at once comes further with each. What the schedule and the end go by.
  double progress = 0;
};

struct CheckpointInfo {
  std::filesystem::path folder;
  int64_t step = 0;
  int world_size = 1;
  std::optional<double> validation_loss;
};

// The complete checkpoints in RUN/checkpoints, by step. Folders without DONE are left out. One
// whose manifest cannot be read is listed without a loss; loading it tells what is wrong.
std::vector<CheckpointInfo> list_checkpoints(const std::filesystem::path& run_folder);

// Of a member's model in a checkpoint of so many: the checkpoint itself where there is but one.
// member: its own number.
std::filesystem::path member_folder(const std::filesystem::path& checkpoint_folder, int num_members,
                                    int member);

// Every rank of the world calls it at the same step. Returns the folder.
std::filesystem::path save_checkpoint(const std::filesystem::path& run_folder,
                                      const Position& position, const Recipe& recipe,
                                      Assembly& assembly, std::optional<double> validation_loss);

// Checks the manifest, then restores parameters, buffers, optimizer, sync, engine, stream and
// mixer. Every rank of the world calls it. Returns where the run stood. Throws DataError on every
// rank: incomplete, altered (names the file), without one of the run's members (names it), of
// another model (names the tensor). What the assembly holds is undefined then.
Position load_checkpoint(const std::filesystem::path& checkpoint_folder, Assembly& assembly);

// Deletes all but the newest `keep` and, if keep_best, the one with the lowest validation loss;
// also what a killed run left half-written. Files, links and folders with names of another form
// stay. One rank calls it, while nobody saves.
void prune_checkpoints(const std::filesystem::path& run_folder, int64_t keep, bool keep_best);

}  // namespace outstep::train
