#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "outstep/apps/failure.h"

// Starts the ranks of one machine as processes and sees them through to the end.
//
//   LaunchOutcome outcome =
//       launch({.command = {"/usr/bin/outstep", "train", "r.toml"}, .num_ranks = 2});
//   return finish_launch(outcome);
//
// Each rank gets torchrun's variables (RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR
// MASTER_PORT), OUTSTEP_LAUNCH and OUTSTEP_REPORT, the number of a pipe on which an Outstep rank
// reports how it failed (report.h). Rank 0 has this process's stdout and stderr; of the others only
// the last lines are kept, for the case that they fail.
//
// The ranks may be a part of a larger world: several machines run a launch each, or a launcher of
// another kind has started processes that host several ranks each.
//
// Each rank leads a process group of its own, so a terminal's Ctrl-C reaches the launcher alone.
// SIGINT and SIGTERM are passed on once; the second kills all ranks, unless it comes so soon that
// it is the same wish (kSameWish). When a rank fails the others get `grace` to notice, then are
// killed. The kernel kills the ranks if the launcher dies. So no process outlives the call.
//
// Call it from the only thread of the process: it takes its signals by descriptor. A process that
// was asked to stop is on its way out: SIGINT and SIGTERM stay blocked after the call.

namespace outstep::apps {

struct LaunchOptions {
  std::vector<std::string> command = {};  // a program, found in PATH, and its arguments
  int num_ranks = 1;                      // started here
  int first_rank = 0;
  int world_size = 0;  // 0: the ranks started here are all of it
  int first_local_rank = 0;
  int local_size = 0;  // ranks on this machine; 0: as many as are started here
  std::string master_addr = "127.0.0.1";
  int master_port = 0;  // 0: a free one
  // The world is of another launcher, which has seen to its port, and what that says of this
  // process (comm/launch.h) does not hold for the ranks.
  bool hosts = false;
  bool starts_outstep =
      true;  // the command is Outstep itself: it reports, and its exit codes are known
  bool shows_all_output = false;  // what the other ranks say too, on stderr behind "[rank]"
  std::chrono::milliseconds grace{5000};
};

// A rank that is gone: it ended without a word; or, where none did, it did not end when the others
// had missed it. A rank that crashed is none: that is a bug, which would meet the others too.
struct LostRank {
  int rank = 0;
  std::string how = {};  // "rank 1 (process 4711) was ended by signal 9 (Killed)"
};

struct LaunchOutcome {
  int exit_code = 0;
  std::optional<Failure> failure = {};  // the first one
  std::vector<std::string> failed_output =
      {};                       // last lines of the failed rank's output, unless it is rank 0
  std::string run_folder = {};  // as the ranks reported it; may be empty
  // Where all else that went wrong is communication errors, which their loss explains.
  std::vector<LostRank> lost = {};
  int world_size = 1;         // that they are counted in
  bool has_finished = false;  // a rank had left well, which it does at the end alone
};

LaunchOutcome launch(const LaunchOptions& options);

// For a launch of a run: returns the exit code, or throws the first failure with all that is known
// about it.
int finish_launch(const LaunchOutcome& outcome);

}  // namespace outstep::apps
