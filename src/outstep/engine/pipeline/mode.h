#pragma once

#include <string>
#include <vector>

#include "outstep/engine/pipeline/schedule.h"

// The pipeline engines by name: each is a schedule, and what a stage keeps of a micro-batch between
// its two passes.
//
//   name              order        keeps      input rebuilt / differentiated at
//   gpipe             all forward  graph      - / same parameters
//   1f1b              1F1B         graph      - / same
//   reversible        1F1B         nothing¹   same / same
//   delayed           ticks        graph      - / those of the forward pass
//   pipedream         ticks        input      - / those of the forward pass
//   dsp               ticks        input      - / present ones
//   reversible_stash  ticks        nothing¹   those of the forward pass, both
//   approx_input      ticks        nothing¹   present ones / those of the forward pass
//   petra             ticks        nothing¹   present ones, both
//
// delayed: ADL, arXiv 2012.03747; pipedream: 1806.03377; dsp: 1909.02625; petra: 2406.02052.
// ¹ blocks that are not reversible keep their input. gpipe and 1f1b with checkpoint = true keep the
// input instead of the graph; but a last stage, whose head makes the loss, the head's graph always:
// one for each micro-batch in flight there, which with gpipe is all of a step.

namespace outstep::engine {

enum class Keep { graph, input, nothing };
// Parameters as they are now, or a copy of them as they were in the micro-batch's forward pass.
enum class ParamsOf { now, forward };

struct Buffering {
  Keep keep = Keep::nothing;
  ParamsOf rebuild = ParamsOf::now;
  ParamsOf differentiate = ParamsOf::now;

  bool stashes() const {
    return rebuild == ParamsOf::forward || differentiate == ParamsOf::forward;
  }
};

struct Mode {
  std::string name;
  Order order = Order::ticks;
  Buffering buffering = {};
  // Whether the last stage, whose two passes follow each other, goes through the graph of the first
  // one (3 units of work a micro-batch) instead of making it anew (4 units, less memory).
  bool last_keeps_graph = true;

  // Whether nothing is in flight between two steps.
  bool flushes() const { return order != Order::ticks; }
};

const std::vector<Mode>& pipeline_modes();
std::vector<std::string> pipeline_mode_names();
// Of a name of the table.
Mode pipeline_mode(const std::string& name);

}  // namespace outstep::engine
