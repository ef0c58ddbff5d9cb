#pragma once

#include "outstep/base/torch.h"

namespace outstep::engine {

// While it lives, operators of this thread on the device run in bfloat16 where autocast deems it
// safe. Forgets the cast weights when it ends. Does nothing when not enabled.
class Autocast {
 public:
  Autocast(bool enabled, at::Device device);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  const bool enabled_;
  const at::DeviceType device_;
  bool was_enabled_ = false;
  at::ScalarType previous_dtype_ = at::kBFloat16;
};

}  // namespace outstep::engine
