#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "outstep/io/jsonl.h"
#include "outstep/io/tensorboard.h"

namespace outstep::train {

// The record of a run as one rank saw it: RUN/metrics/rank-N.jsonl, one object a line, and on rank
// 0 the same numbers as TensorBoard scalars in RUN.
//
//   {"kind": "train", "step": 40, "unix_seconds": 1763.25, "loss": 2.51, "lr": 0.001, …}
//
// A run that goes on from step S drops the lines of later steps first, so each step is told once
// even when a run was killed after its last checkpoint. docs/formats.md lists kinds and keys.
class Metrics {
 public:
  struct Options {
    std::filesystem::path run_folder;
    int rank = 0;
    int num_ranks = 1;            // earlier attempts may have had more
    bool has_tensorboard = true;  // taken on rank 0 only
    int64_t first_step = 0;       // lines of later steps are of an attempt that is being repeated
  };
  explicit Metrics(const Options& options);
  ~Metrics();

  // values: keys with numbers or texts; the numbers go to TensorBoard too.
  void write(const std::string& kind, int64_t step, const nlohmann::ordered_json& values);

 private:
  std::unique_ptr<io::JsonLines> lines_;
  std::unique_ptr<io::TensorBoardWriter> tensorboard_;  // null: none
};

std::filesystem::path metrics_path(const std::filesystem::path& run_folder, int rank);

}  // namespace outstep::train
