#include "outstep/base/trace.h"

#include "outstep/base/errors.h"

namespace outstep::trace {

const char* track_name(Track track) {
  switch (track) {
    case Track::compute:
      return "compute";
    case Track::communication:
      return "communication";
    case Track::data:
      return "data";
    case Track::checkpoint:
      return "checkpoint";
  }
  throw InternalError("unknown track");
}

Tracer::Tracer(size_t max_events) : max_events_(max_events) {}

void Tracer::record(Track track, const char* name, Clock::time_point begin, Clock::time_point end,
                    Args args) {
  const Event event{name, track, seconds_between(origin_, begin), seconds_between(origin_, end),
                    args};
  std::lock_guard lock(mutex_);
  if (events_.size() < max_events_) {
    events_.push_back(event);
  } else {
    ++num_dropped_;
  }
}

std::vector<Event> Tracer::events() const {
  std::lock_guard lock(mutex_);
  return events_;
}

int64_t Tracer::num_dropped() const {
  std::lock_guard lock(mutex_);
  return num_dropped_;
}

}  // namespace outstep::trace
