#pragma once

#include <string>

namespace outstep::apps {

struct MasterAddress {
  std::string host;
  int port = 0;
};

// "10.0.0.1:29500", "[fe80::1]:29500". Throws ConfigError for anything else.
MasterAddress parse_master_address(const std::string& text);

}  // namespace outstep::apps
