#pragma once

#include <filesystem>

#include "outstep/base/trace.h"

// Writes a tracer's spans as Chrome's trace format, which Perfetto (ui.perfetto.dev) opens: one
// process a rank, one track (thread) for compute, communication, data and checkpoints each.

namespace outstep::io {

void write_chrome_trace(const std::filesystem::path& path, const trace::Tracer& tracer, int rank);

}  // namespace outstep::io
