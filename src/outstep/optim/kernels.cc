#include "outstep/optim/kernels.h"

namespace outstep::optim {

Kernels best_kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return Kernels::avx512;
  }
  if (__builtin_cpu_supports("avx2")) return Kernels::avx2;
#endif
  return Kernels::baseline;
}

std::string to_string(Kernels kernels) {
  switch (kernels) {
    case Kernels::operators:
      return "operators";
    case Kernels::baseline:
      return "baseline";
    case Kernels::avx2:
      return "avx2";
    case Kernels::avx512:
      return "avx512";
  }
  return "unknown";
}

}  // namespace outstep::optim
