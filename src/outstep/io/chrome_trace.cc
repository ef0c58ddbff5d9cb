#include "outstep/io/chrome_trace.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "outstep/io/files.h"

namespace outstep::io {

namespace {

using nlohmann::ordered_json;

constexpr double kMicroseconds = 1e6;
constexpr size_t kBufferBytes = 1 << 20;

// By begin; of two that begin together the longer first, since it is the one around the other.
std::vector<trace::Event> in_order(const trace::Tracer& tracer) {
  std::vector<trace::Event> events = tracer.events();
  std::stable_sort(events.begin(), events.end(), [](const trace::Event& a, const trace::Event& b) {
    return a.begin_seconds != b.begin_seconds ? a.begin_seconds < b.begin_seconds
                                              : a.end_seconds > b.end_seconds;
  });
  return events;
}

ordered_json name_of(const char* what, int rank, int track, const std::string& name) {
  return {{"ph", "M"}, {"name", what}, {"pid", rank}, {"tid", track}, {"args", {{"name", name}}}};
}

ordered_json span_of(const trace::Event& event, int rank) {
  ordered_json args = ordered_json::object();
  if (event.args.step >= 0) args["step"] = event.args.step;
  if (event.args.bytes >= 0) args["bytes"] = event.args.bytes;
  return {{"ph", "X"},
          {"name", event.name},
          {"pid", rank},
          {"tid", static_cast<int>(event.track)},
          {"ts", event.begin_seconds * kMicroseconds},
          {"dur", (event.end_seconds - event.begin_seconds) * kMicroseconds},
          {"args", std::move(args)}};
}

}  // namespace

void write_chrome_trace(const std::filesystem::path& path, const trace::Tracer& tracer, int rank) {
  const ordered_json about = {
      {"program", "outstep"}, {"rank", rank}, {"dropped_events", tracer.num_dropped()}};
  std::string text = "{\"displayTimeUnit\":\"ms\",\"otherData\":" + about.dump() +
                     ",\"traceEvents\":[\n" +
                     name_of("process_name", rank, 0, "rank " + std::to_string(rank)).dump();
  for (const trace::Track track : {trace::Track::compute, trace::Track::communication,
                                   trace::Track::data, trace::Track::checkpoint}) {
    text += ",\n" +
            name_of("thread_name", rank, static_cast<int>(track), trace::track_name(track)).dump();
  }
  AtomicFile file(path);
  for (const trace::Event& event : in_order(tracer)) {
    text += ",\n" + span_of(event, rank).dump();
    if (text.size() < kBufferBytes) continue;
    file.write(text);
    text.clear();
  }
  file.write(text + "\n]}\n");
  file.commit();
}

}  // namespace outstep::io
