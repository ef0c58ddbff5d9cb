#pragma once

#include <optional>
#include <string>
#include <vector>

// What this machine is called and at which addresses others reach it.

namespace outstep::comm {

std::string host_name();

// The local address from which packets to host would leave ("10.77.0.2"); nothing where no route
// leads there or the name cannot be resolved. Sends nothing.
std::optional<std::string> address_towards(const std::string& host, int port);

// The first address (IPv4 before IPv6) of a network interface; nothing where it does not exist or
// has none.
std::optional<std::string> address_of_interface(const std::string& interface);

std::vector<std::string> interface_names();

// "127.0.0.1", "127.0.1.1" or "::1": an address that only this machine can reach.
bool is_loopback(const std::string& address);

}  // namespace outstep::comm
