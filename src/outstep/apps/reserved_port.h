#pragma once

#include "outstep/apps/descriptor.h"

namespace outstep::apps {

// A TCP port that no other program is given while this lives; a rank that sets SO_REUSEADDR, as
// c10d's store does, can still listen on it.
class ReservedPort {
 public:
  // 0: any. Throws CommError if a given port is taken.
  explicit ReservedPort(int port);
  int port() const { return port_; }

 private:
  Descriptor socket_;
  int port_ = 0;
};

}  // namespace outstep::apps
