#include "outstep/io/chrome_trace.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "outstep/io/files.h"

namespace outstep::io {

void write_chrome_trace(const std::filesystem::path& path, const trace::Tracer& tracer, int rank) {
  using nlohmann::ordered_json;
  std::vector<trace::Event> events = tracer.events();
  std::stable_sort(events.begin(), events.end(), [](const trace::Event& a, const trace::Event& b) {
    return a.begin_seconds < b.begin_seconds;
  });

  AtomicFile file(path);
  file.write("{\"displayTimeUnit\":\"ms\",\"otherData\":");
  file.write(
      ordered_json{{"program", "outstep"}, {"rank", rank}, {"dropped_events", tracer.num_dropped()}}
          .dump());
  file.write(",\"traceEvents\":[\n");
  const auto name_of = [&](const char* what, int track, const std::string& name) {
    return ordered_json{
        {"ph", "M"}, {"name", what}, {"pid", rank}, {"tid", track}, {"args", {{"name", name}}}};
  };
  file.write(name_of("process_name", 0, "rank " + std::to_string(rank)).dump());
  for (const trace::Track track : {trace::Track::compute, trace::Track::communication,
                                   trace::Track::data, trace::Track::checkpoint}) {
    file.write(",\n" +
               name_of("thread_name", static_cast<int>(track), trace::track_name(track)).dump());
  }
  constexpr double kMicroseconds = 1e6;
  for (const trace::Event& event : events) {
    ordered_json args = ordered_json::object();
    if (event.args.step >= 0) args["step"] = event.args.step;
    if (event.args.bytes >= 0) args["bytes"] = event.args.bytes;
    file.write(",\n" +
               ordered_json{{"ph", "X"},
                            {"name", event.name},
                            {"pid", rank},
                            {"tid", static_cast<int>(event.track)},
                            {"ts", event.begin_seconds * kMicroseconds},
                            {"dur", (event.end_seconds - event.begin_seconds) * kMicroseconds},
                            {"args", args}}
                   .dump());
  }
  file.write("\n]}\n");
  file.commit();
}

}  // namespace outstep::io
