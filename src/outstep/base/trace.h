#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "outstep/base/clock.h"

// Spans of time on named tracks, kept in memory until io/chrome_trace.h writes them for Perfetto.
//
//   trace::Span span(tracer, trace::Track::compute, "forward", {.step = step});
//
// A null Tracer* makes a Span cost one branch. Any thread may record; the tracer must outlive its
// spans.

namespace outstep::trace {

enum class Track : uint8_t { compute, communication, data, checkpoint };
const char* track_name(Track track);

struct Args {
  int64_t step = -1;   // -1: not said
  int64_t bytes = -1;  // -1: not said
};

struct Event {
  const char* name;  // a literal: never freed
  Track track;
  double begin_seconds;  // since the tracer was made
  double end_seconds;
  Args args;
};

class Tracer {
 public:
  // Keeps at most max_events; later ones are counted in num_dropped().
  explicit Tracer(size_t max_events = 1'000'000);

  void record(Track track, const char* name, Clock::time_point begin, Clock::time_point end,
              Args args);
  std::vector<Event> events() const;  // a copy, in order of recording
  int64_t num_dropped() const;
  Clock::time_point origin() const { return origin_; }

 private:
  const Clock::time_point origin_ = Clock::now();
  const size_t max_events_;
  mutable std::mutex mutex_;
  std::vector<Event> events_;  // guarded by mutex_
  int64_t num_dropped_ = 0;    // guarded by mutex_
};

// Records from construction to destruction. Tracer may be null.
class Span {
 public:
  Span(Tracer* tracer, Track track, const char* name, Args args = {})
      : tracer_(tracer), track_(track), name_(name), args_(args) {
    if (tracer_) begin_ = Clock::now();
  }
  ~Span() {
    if (tracer_) tracer_->record(track_, name_, begin_, Clock::now(), args_);
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  Tracer* tracer_;
  Track track_;
  const char* name_;
  Args args_;
  Clock::time_point begin_;
};

}  // namespace outstep::trace
