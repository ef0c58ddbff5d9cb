#pragma once

#include <exception>
#include <optional>
#include <span>
#include <string>
#include <string_view>

// How a command failed, as a value: what main prints, what a rank tells its launcher, and what the
// launcher weighs when several ranks fail within a moment, because one failure makes all the
// others.

namespace outstep::apps {

struct Failure {
  int rank = 0;
  std::string kind = {};     // "config error", as Error::kind()
  int exit_code = 70;        // as the process leaves with
  std::string message = {};  // the culprit and the way out
  std::string hint = {};     // what to do next about the run (its last checkpoint); may be empty
  double at_seconds = 0;     // on this machine's steady clock: orders the failures of its ranks
  int signal = 0;            // that ended the process, else 0

  // "outstep: config error: …" ("outstep[1]: …" on other ranks than 0), with the hint on a line of
  // its own.
  std::string text() const;
};

class FailureError : public std::exception {
 public:
  explicit FailureError(Failure failure) : failure_(std::move(failure)) {}
  const Failure& failure() const { return failure_; }
  const char* what() const noexcept override { return failure_.message.c_str(); }

 private:
  Failure failure_;
};

// Of any exception; those that are not ours as base/foreign_errors.h takes them.
Failure describe_failure(const std::exception_ptr& exception);

// One line of JSON, and back. Nothing for a line that is not a failure.
std::string encode(const Failure& failure);
std::optional<Failure> decode(std::string_view line);

// The one that explains the others: a communication error is taken for an echo while anything else
// is there; among equals the earliest. What several ranks say alike is the lowest one's. Null only
// for none.
const Failure* first_failure(std::span<const Failure> failures);

// "signal 9 (Killed)"
std::string signal_name(int signal);

}  // namespace outstep::apps
