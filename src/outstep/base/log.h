#pragma once

#include <spdlog/spdlog.h>

#include <string>

// Messages for a person, on stderr. Libraries log through these; only apps/ print.
//
//   log::info("resuming at step {}", step);
//
// Thread safe.

namespace outstep::log {

// Marks every line of this process with its rank, and silences info below rank 0.
void set_rank(int rank, int world_size);
// One of "debug", "info", "warning", "error", "off". Throws ConfigError for anything else.
void set_level(const std::string& level);

using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;

}  // namespace outstep::log
