#include "outstep/apps/failure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tuple>

#include "outstep/base/clock.h"
#include "outstep/base/foreign_errors.h"

namespace outstep::apps {

namespace {

double now_seconds() {
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

}  // namespace

std::string Failure::text() const {
  std::string text =
      fmt::format("outstep{}: {}: {}", rank > 0 ? fmt::format("[{}]", rank) : "", kind, message);
  if (!hint.empty()) text += "\n  " + hint;
  return text;
}

Failure describe_failure(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const FailureError& error) {
    return error.failure();
  } catch (...) {
    const Error error = as_error(exception);
    return {.kind = error.kind(),
            .exit_code = error.exit_code(),
            .message = error.what(),
            .at_seconds = now_seconds()};
  }
}

std::string encode(const Failure& failure) {
  const nlohmann::ordered_json line{{"kind", failure.kind},      {"rank", failure.rank},
                                    {"code", failure.exit_code}, {"message", failure.message},
                                    {"hint", failure.hint},      {"at", failure.at_seconds},
                                    {"signal", failure.signal}};
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::optional<Failure> decode(std::string_view line) {
  const auto parsed = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return std::nullopt;
  try {
    return Failure{.rank = parsed.at("rank").get<int>(),
                   .kind = parsed.at("kind").get<std::string>(),
                   .exit_code = parsed.at("code").get<int>(),
                   .message = parsed.at("message").get<std::string>(),
                   .hint = parsed.at("hint").get<std::string>(),
                   .at_seconds = parsed.at("at").get<double>(),
                   .signal = parsed.at("signal").get<int>()};
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

const Failure* first_failure(std::span<const Failure> failures) {
  const auto weight = [](const Failure& failure) {
    return std::tuple(failure.kind == "communication error" && failure.signal == 0,
                      failure.at_seconds, failure.rank);
  };
  const auto first =
      std::min_element(failures.begin(), failures.end(),
                       [&](const Failure& a, const Failure& b) { return weight(a) < weight(b); });
  if (first == failures.end()) return nullptr;
  // What all ranks say alike is told once, as rank 0's.
  const auto differs = [&](const Failure& failure) {
    return std::tie(failure.kind, failure.signal, failure.message) !=
           std::tie(first->kind, first->signal, first->message);
  };
  return &*std::min_element(
      failures.begin(), failures.end(), [&](const Failure& a, const Failure& b) {
        return std::tuple(differs(a), a.rank) < std::tuple(differs(b), b.rank);
      });
}

std::string signal_name(int signal) {
  return fmt::format("signal {} ({})", signal, strsignal(signal));
}

}  // namespace outstep::apps
