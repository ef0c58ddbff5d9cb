#include "outstep/base/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <memory>

namespace outstep::log {

void set_rank(int rank, int world_size) {
  auto logger = std::make_shared<spdlog::logger>("outstep",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern(
      fmt::format("outstep{}: %l: %v", world_size > 1 ? fmt::format("[{}]", rank) : ""));
  logger->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace outstep::log
