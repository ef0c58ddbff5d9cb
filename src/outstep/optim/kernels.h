#pragma once

#include <string>

namespace outstep::optim {

// Which form of the room's loops runs. All give the same bits; the choice exists for tests and
// benchmarks.
enum class Kernels {
  operators,  // ATen's operators one after another: the reference, and what other devices than the
              // CPU use
  baseline,   // one fused pass for any x86-64 (or other) processor
  avx2,
  avx512,
};

// The widest that this processor runs.
Kernels best_kernels();
std::string to_string(Kernels kernels);

}  // namespace outstep::optim
