#include "outstep/apps/master_address.h"

#include <charconv>

#include "outstep/base/errors.h"

namespace outstep::apps {

MasterAddress parse_master_address(const std::string& text) {
  MasterAddress address;
  const size_t colon = text.rfind(':');
  const char* end = text.data() + text.size();
  const char* begin = colon == text.npos ? end : text.data() + colon + 1;
  const auto parsed = std::from_chars(begin, end, address.port);
  address.host = text.substr(0, colon == text.npos ? 0 : colon);
  if (address.host.starts_with("[") && address.host.ends_with("]")) {
    address.host = address.host.substr(1, address.host.size() - 2);
  }
  if (parsed.ec != std::errc() || parsed.ptr != end || address.port < 1 || address.port > 65535 ||
      address.host.empty()) {
    throw ConfigError("--master \"{}\": expected HOST:PORT with a port from 1 to 65535", text);
  }
  return address;
}

}  // namespace outstep::apps
