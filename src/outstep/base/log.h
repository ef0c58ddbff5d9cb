#pragma once

#include <spdlog/spdlog.h>

// Messages for a person, on stderr. Libraries log through these; only apps/ print.
//
//   log::info("resuming at step {}", step);
//
// Thread safe.

namespace outstep::log {

// Marks every line of this process with its rank, and silences info below rank 0.
void set_rank(int rank, int world_size);

using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;

}  // namespace outstep::log
