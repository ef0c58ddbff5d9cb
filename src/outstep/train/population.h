#pragma once

#include <array>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "outstep/train/assembly.h"

namespace outstep::train {

// Two members, and how it goes on the straight line from one to the other.
struct Pair {
  std::array<int, 2> members = {};  // their own numbers
  double distance = 0;              // ‖θ_i - θ_j‖
  // Models on the line, evaluated as soups are; none unless barrier_points asks for it.
  std::array<method::Evaluation, 2> ends = {};
  std::vector<method::Evaluation> between = {};  // at even steps

  // The most by which the loss on the line exceeds the line between the ends' losses, at least 0
  // (Entezari et al., arXiv 2110.06296): near 0 for members of one basin. NaN if a loss is.
  double barrier() const;
};

// What the members of a finished run are worth: each by itself, together, and as one model.
struct Population {
  std::vector<int> member_ids;              // the members' own numbers (members.h)
  std::vector<method::Evaluation> members;  // in the same order
  method::Evaluation ensemble;              // the mean of their logits
  method::Evaluation average;               // the mean of their weights: the uniform soup
  method::Evaluation greedy;                // the greedy soup, chosen on the same validation set
  std::vector<int> greedy_members;          // its ingredients' own numbers, best first
  double consensus_distance = 0;            // (1/N) Σ ‖θ_n - mean‖²
  double relative_distance = 0;             // its root over the mean's norm
  std::vector<Pair> pairs;                  // of each two members
  std::filesystem::path average_folder;     // the average as a model folder
  int64_t bytes_sent = 0;                   // by this rank, to find all this out
  bool has_classes = false;                 // accuracies say something

  nlohmann::ordered_json to_json() const;
};

// How far members are apart, of all stages together; the same on every rank. Collective over the
// world, paused.
struct Distance {
  double squared = 0;   // (1/N) Σ ‖θ_n - mean‖²
  double relative = 0;  // its root over the mean's norm
};
Distance measure_distance(Assembly& assembly);

// Evaluates members, ensemble, average and greedy soup, and writes the average, with its
// ingredients' provenance in the file's metadata, into RUN/average. Every rank of the world calls
// it, paused; parameters and buffers are afterwards what they were. members: their evaluations;
// distance: measured at the same parameters.
Population conclude(const Recipe& recipe, Assembly& assembly,
                    const std::filesystem::path& run_folder, int64_t step,
                    std::vector<method::Evaluation> members, const Distance& distance);

// The folder of a run's average. It is there once a run of several members has finished.
std::filesystem::path average_folder(const std::filesystem::path& run_folder);

}  // namespace outstep::train
