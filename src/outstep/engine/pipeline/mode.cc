#include "outstep/engine/pipeline/mode.h"

#include <algorithm>

#include "outstep/base/errors.h"

namespace outstep::engine {

const std::vector<Mode>& pipeline_modes() {
  constexpr ParamsOf now = ParamsOf::now, forward = ParamsOf::forward;
  static const std::vector<Mode> modes = {
      {"gpipe", Order::all_forward, {Keep::graph, now, now}},
      {"1f1b", Order::one_forward, {Keep::graph, now, now}},
      {"reversible", Order::one_forward, {Keep::nothing, now, now}, /*last_keeps_graph=*/false},
      {"delayed", Order::ticks, {Keep::graph, now, forward}},
      {"pipedream", Order::ticks, {Keep::input, now, forward}},
      {"dsp", Order::ticks, {Keep::input, now, now}},
      {"reversible_stash", Order::ticks, {Keep::nothing, forward, forward}},
      {"approx_input", Order::ticks, {Keep::nothing, now, forward}},
      {"petra", Order::ticks, {Keep::nothing, now, now}},
  };
  return modes;
}

std::vector<std::string> pipeline_mode_names() {
  std::vector<std::string> names;
  for (const Mode& mode : pipeline_modes()) names.push_back(mode.name);
  return names;
}

Mode pipeline_mode(const std::string& name) {
  const auto found = std::ranges::find(pipeline_modes(), name, &Mode::name);
  check(found != pipeline_modes().end(), "a mode of the table");
  return *found;
}

}  // namespace outstep::engine
