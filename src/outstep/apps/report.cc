#include "outstep/apps/report.h"

#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "outstep/comm/launch.h"

namespace outstep::apps {
namespace {

// The launcher's pipe, or nothing: a stray variable in somebody's shell names no pipe of ours.
std::optional<int> launcher_pipe() {
  const auto value = comm::environment_variable("OUTSTEP_REPORT");
  if (!value) return std::nullopt;
  int number = -1;
  const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), number);
  struct stat status{};
  if (error != std::errc() || end != value->data() + value->size() || number < 3 ||
      fstat(number, &status) != 0 || !S_ISFIFO(status.st_mode)) {
    return std::nullopt;
  }
  return number;
}

bool write_line(const std::string& line) {
  const auto pipe = launcher_pipe();
  // Up to PIPE_BUF a write is whole or not at all; a longer message takes several, and the pipe is
  // this rank's alone.
  for (size_t written = 0; pipe && written < line.size();) {
    const ssize_t count = write(*pipe, line.data() + written, line.size() - written);
    if (count <= 0) return false;
    written += static_cast<size_t>(count);
  }
  return pipe.has_value();
}

}  // namespace

bool report_failure(const Failure& failure) { return write_line(encode(failure)); }

bool report_run_folder(const std::filesystem::path& folder) {
  const nlohmann::json line{{"run_folder", folder.string()}};
  return write_line(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

Report read_report(std::string_view line) {
  if (auto failure = decode(line)) return {.failure = std::move(failure), .run_folder = ""};
  const auto parsed = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_object() && parsed.contains("run_folder") && parsed["run_folder"].is_string()) {
    return {.failure = std::nullopt, .run_folder = parsed["run_folder"].get<std::string>()};
  }
  return {};
}

}  // namespace outstep::apps
