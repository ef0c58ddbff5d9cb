#include "outstep/apps/screen.h"

#include <spdlog/sinks/base_sink.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "outstep/apps/progress_line.h"
#include "outstep/apps/table.h"
#include "outstep/base/log.h"
#include "outstep/comm/launch.h"

namespace outstep::apps {
namespace {

constexpr double kSecondsBetweenBars = 0.1;

bool draws_bars(std::FILE* out) {
  return isatty(fileno(out)) != 0 && comm::environment_variable("TERM").value_or("dumb") != "dumb";
}

int terminal_columns(std::FILE* out) {
  winsize size{};
  const bool is_known = ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return is_known ? size.ws_col : 80;
}

}  // namespace

// Takes the default logger's messages while a screen lives.
class Screen::LogSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit LogSink(Screen& screen) : screen_(screen) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string_view text(message.payload.data(), message.payload.size());
    if (message.level >= spdlog::level::warn) {
      const auto level = spdlog::level::to_string_view(message.level);
      screen_.log(
          fmt::format("outstep: {}: {}", std::string_view(level.data(), level.size()), text));
    } else {
      screen_.log(fmt::format("outstep: {}", text));
    }
  }
  void flush_() override {}

  Screen& screen_;
};

Screen::Screen(ScreenOptions options)
    : options_(options),
      out_(options.json ? stderr : stdout),
      is_terminal_(!options.silent && !options.quiet && draws_bars(out_)) {
  if (options_.silent) return;
  auto logger = std::make_shared<spdlog::logger>("outstep", std::make_shared<LogSink>(*this));
  logger->set_level(options_.quiet ? spdlog::level::warn : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

Screen::~Screen() {
  if (options_.silent) return;
  end_progress();
  log::set_rank(0, 1);  // the plain logger again
}

void Screen::line(const std::string& text) {
  if (options_.quiet || options_.silent) return;
  write(text + "\n");
}

void Screen::write(const std::string& text) {
  if (options_.silent) return;
  const std::lock_guard lock(mutex_);
  clear_bar();
  put(text);
  draw_bar();
}

void Screen::log(const std::string& text) {
  const std::lock_guard lock(mutex_);
  clear_bar();
  std::fputs((text + "\n").c_str(), stderr);
  std::fflush(stderr);
  draw_bar();
}

void Screen::progress(const train::Progress& progress) {
  if (options_.quiet || options_.silent) return;
  const std::lock_guard lock(mutex_);
  if (!started_at_) started_at_ = Clock::now();
  const bool is_last = progress.step == progress.steps;
  if (!is_terminal_) {
    const bool is_evaluated = progress.validation_loss != shown_validation_;
    shown_validation_ = progress.validation_loss;
    if (is_last || is_evaluated || progress.crosses_interval) {
      train::Progress shown = progress;
      if (!is_evaluated) shown.validation_loss.reset();
      put(progress_text(shown) + "\n");
    }
    return;
  }
  if (!is_last && !bar_.empty() && seconds_since(drawn_at_) < kSecondsBetweenBars) return;
  drawn_at_ = Clock::now();
  set_bar(progress_bar(progress, seconds_since(*started_at_), terminal_columns(out_) - 1));
}

void Screen::status(const std::string& text) {
  if (!is_terminal_) return;
  const std::lock_guard lock(mutex_);
  set_bar(cut_to_columns(text, terminal_columns(out_) - 1));
}

// A bar leaves one column free: a full line would wrap and scroll on some terminals.
void Screen::set_bar(std::string bar) {
  const size_t columns_before = count_columns(bar_);
  const size_t columns = count_columns(bar);
  bar_ = std::move(bar);
  if (columns < columns_before) bar_ += std::string(columns_before - columns, ' ');
  draw_bar();
}

void Screen::end_progress() {
  const std::lock_guard lock(mutex_);
  if (!bar_.empty()) put("\n");
  bar_.clear();
}

void Screen::result(const nlohmann::ordered_json& object) {
  if (!options_.json || options_.silent) return;
  const std::string text =
      object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

void Screen::draw_bar() {
  if (!bar_.empty()) put("\r" + bar_);
}

void Screen::clear_bar() {
  if (!bar_.empty()) put("\r" + std::string(count_columns(bar_), ' ') + "\r");
}

void Screen::put(const std::string& text) {
  std::fputs(text.c_str(), out_);
  std::fflush(out_);
}

}  // namespace outstep::apps
