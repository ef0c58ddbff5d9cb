#include "outstep/apps/failure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <tuple>

#include "outstep/base/clock.h"
#include "outstep/base/errors.h"
#include "outstep/base/torch.h"

namespace outstep::apps {

namespace {

constexpr int kInternal = 70;

double now_seconds() {
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

bool is_out_of_memory(std::string_view what) {
  for (const char* words : {"not enough memory", "out of memory", "can't allocate memory"}) {
    if (what.find(words) != what.npos) return true;
  }
  return false;
}

Failure out_of_memory(std::string_view what) {
  return {.kind = "config error",
          .exit_code = 2,
          .message = fmt::format(
              "not enough memory on this machine ({}). Make engine.micro_batch or the model "
              "smaller; `outstep plan RECIPE` tells what a recipe needs.",
              what)};
}

// c10 appends a stack trace after its message: of no use to a person.
std::string first_lines(const std::string& what) {
  const size_t trace = what.find("\nException raised from");
  return what.substr(0, trace);
}

}  // namespace

std::string Failure::text() const {
  std::string text =
      fmt::format("outstep{}: {}: {}", rank > 0 ? fmt::format("[{}]", rank) : "", kind, message);
  if (!hint.empty()) text += "\n  " + hint;
  return text;
}

Failure describe_failure(std::exception_ptr error) {
  Failure failure;
  try {
    std::rethrow_exception(error);
  } catch (const FailureError& e) {
    return e.failure();
  } catch (const Error& e) {
    failure = {.kind = e.kind(), .exit_code = e.exit_code(), .message = e.what()};
  } catch (const std::bad_alloc& e) {
    failure = out_of_memory(e.what());
  } catch (const c10::Error& e) {
    const std::string what = first_lines(e.what_without_backtrace());
    failure = is_out_of_memory(what) ? out_of_memory(what)
                                     : Failure{.kind = "internal error",
                                               .exit_code = kInternal,
                                               .message = "LibTorch: " + what};
  } catch (const std::exception& e) {
    failure = {.kind = "internal error", .exit_code = kInternal, .message = e.what()};
  } catch (...) {
    failure = {.kind = "internal error", .exit_code = kInternal, .message = "unknown exception"};
  }
  failure.at_seconds = now_seconds();
  return failure;
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
