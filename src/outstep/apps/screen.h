#pragma once

#include <cstdio>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "outstep/base/clock.h"
#include "outstep/train/trainer.h"

// What a command shows. Rank 0 shows it; the others have a silent screen.
//
//   Screen screen({.json = flags.json});
//   screen.line("gpt2  3,323,392 parameters");
//   screen.progress(progress);            // a bar that is redrawn, or one plain line an interval
//   screen.result(summary.to_json());     // with --json: the one object on stdout
//
// Text goes to stdout, with --json to stderr, so that stdout is exactly one JSON object. The bar is
// drawn on a terminal only, with a carriage return and spaces: no escape sequence is ever written,
// whatever NO_COLOR says. While a screen lives, log messages pass through it and are put above the
// bar. Every write is flushed. Thread safe.

namespace outstep::apps {

struct ScreenOptions {
  bool json = false;
  bool quiet = false;   // errors, warnings and what was asked for only
  bool silent = false;  // nothing but warnings: ranks other than 0
};

class Screen {
 public:
  explicit Screen(ScreenOptions options);
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  bool is_json() const { return options_.json; }

  void line(const std::string& text);  // nothing when quiet
  void write(
      const std::string& text);  // what was asked for (a table, a sample), as it is, quiet or not
  // Every step. Where there is no bar, a plain line is written each interval, at the last one and
  // when there is a validation loss.
  void progress(const train::Progress& progress);
  void status(const std::string& text);  // in place of the bar, on a terminal only
  void end_progress();                   // leaves the bar as it is; what follows stands below it
  void result(const nlohmann::ordered_json& object);  // with --json only

 private:
  class LogSink;
  void log(const std::string& text);
  void set_bar(std::string bar);      // mutex_ is held
  void draw_bar();                    // mutex_ is held
  void clear_bar();                   // mutex_ is held
  void put(const std::string& text);  // mutex_ is held

  const ScreenOptions options_;
  std::FILE* const out_;
  const bool is_terminal_;
  std::mutex mutex_;
  std::string bar_;                              // as last drawn, empty: none; guarded by mutex_
  std::optional<Clock::time_point> started_at_;  // of the bar's clock; guarded by mutex_
  Clock::time_point drawn_at_{};                 // guarded by mutex_
  std::optional<double> shown_validation_;       // guarded by mutex_
};

}  // namespace outstep::apps
