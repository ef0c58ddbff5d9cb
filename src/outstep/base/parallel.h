#pragma once

#include <cstdint>
#include <functional>

namespace outstep {

// Calls body(begin, end) for contiguous pieces that cover [0, size), on torch's own threads: at
// most at::get_num_threads() pieces, each beginning at a multiple of grain. Serial inside another
// parallel region. Rethrows what a body throws. What body writes must not depend on how the range
// is cut.
//
// Use it instead of at::parallel_for, which silently becomes a serial loop in code that is built
// without OpenMP; we build without, because a second OpenMP runtime in the process must not be.
void parallel_for(int64_t size, int64_t grain,
                  const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace outstep
