#include "outstep/base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <memory>

#include "outstep/base/errors.h"

namespace outstep::log {

void set_rank(int rank, int world_size) {
  auto logger = std::make_shared<spdlog::logger>("outstep",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern(world_size > 1 ? fmt::format("outstep[{}] %l: %v", rank) : "outstep: %v");
  logger->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  spdlog::set_default_logger(std::move(logger));
}

void set_level(const std::string& level) {
  for (const char* known : {"debug", "info", "warning", "error", "off"}) {
    if (level == known) return spdlog::set_level(spdlog::level::from_str(level));
  }
  throw ConfigError("unknown log level \"{}\"; choose debug, info, warning, error or off", level);
}

}  // namespace outstep::log
