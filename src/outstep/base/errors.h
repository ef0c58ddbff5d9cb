#pragma once

#include <fmt/format.h>

#include <source_location>
#include <stdexcept>
#include <string>

// The four errors of Outstep, each with its exit code. A message names the culprit and the way out.
//
//   throw ConfigError("sync \"{}\" needs at least 2 replicas, mesh.replicas is {}", name,
//   replicas);
//
// User input, files, peers and the environment raise the first three; an InternalError is our own
// bug.

namespace outstep {

class Error : public std::runtime_error {
 public:
  Error(std::string kind, int exit_code, const std::string& message)
      : std::runtime_error(message), kind_(std::move(kind)), exit_code_(exit_code) {}
  // As printed before the message: "config error", "data error", …
  const std::string& kind() const { return kind_; }
  int exit_code() const { return exit_code_; }

 private:
  std::string kind_;
  int exit_code_;
};

// A recipe, flag, environment variable or combination that cannot be run. Exit code 2.
class ConfigError : public Error {
 public:
  template <typename... Args>
  explicit ConfigError(fmt::format_string<Args...> format, Args&&... args)
      : Error("config error", 2, fmt::format(format, std::forward<Args>(args)...)) {}
};

// A file that is missing, cut off, foreign or hostile; a disk that is full. Exit code 3.
class DataError : public Error {
 public:
  template <typename... Args>
  explicit DataError(fmt::format_string<Args...> format, Args&&... args)
      : Error("data error", 3, fmt::format(format, std::forward<Args>(args)...)) {}
};

// A peer that is gone, silent or different; a deadline that passed. Exit code 4.
class CommError : public Error {
 public:
  template <typename... Args>
  explicit CommError(fmt::format_string<Args...> format, Args&&... args)
      : Error("communication error", 4, fmt::format(format, std::forward<Args>(args)...)) {}
};

// A broken promise inside Outstep, with its file and line. Exit code 70.
class InternalError : public Error {
 public:
  explicit InternalError(const std::string& message,
                         std::source_location where = std::source_location::current())
      : Error("internal error", 70,
              fmt::format("{}:{}: {}", where.file_name(), where.line(), message)) {}
};

// Checks a promise that only a bug can break.
inline void check(bool holds, const char* promise,
                  std::source_location where = std::source_location::current()) {
  if (!holds) throw InternalError(promise, where);
}

}  // namespace outstep
