#include "outstep/apps/reserved_port.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace outstep::apps {

ReservedPort::ReservedPort(int port) {
  socket_ = Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int yes = 1;
  setsockopt(socket_.number(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(socket_.number(), generic, length) != 0 ||
      getsockname(socket_.number(), generic, &length) != 0) {
    throw CommError("cannot use port {}: {}; choose another with --master HOST:PORT", port,
                    std::strerror(errno));
  }
  port_ = ntohs(address.sin_port);
}

}  // namespace outstep::apps
