#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <stdexcept>

#include "outstep/data/http_testing.h"

namespace outstep::data::testing {
namespace {

void send_all(int connection, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t sent = ::send(connection, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (sent <= 0) return;  // the client has gone
    done += static_cast<size_t>(sent);
  }
}

// The request's head, to the empty line.
std::string receive_head(int connection) {
  std::string head;
  char byte = 0;
  while (!head.ends_with("\r\n\r\n") && ::recv(connection, &byte, 1, 0) == 1) head.push_back(byte);
  return head;
}

int64_t range_begin(const std::string& head) {
  const auto at = head.find("Range: bytes=");
  return at == std::string::npos ? 0 : std::stoll(head.substr(at + 13));
}

}  // namespace

HttpServer::HttpServer() {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener_, generic, size) != 0 || ::listen(listener_, 8) != 0 ||
      ::getsockname(listener_, generic, &size) != 0) {
    throw std::runtime_error("no server on 127.0.0.1");
  }
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { run(); });
}

HttpServer::~HttpServer() {
  stopping_ = true;
  ::shutdown(listener_, SHUT_RDWR);  // ends accept
  thread_.join();
  ::close(listener_);
}

void HttpServer::serve(const std::string& path, Page page) {
  std::lock_guard lock(mutex_);
  pages_[path] = std::move(page);
}

std::string HttpServer::address(const std::string& path) const {
  return "http://127.0.0.1:" + std::to_string(port_) + path;
}

std::vector<HttpServer::Request> HttpServer::requests() const {
  std::lock_guard lock(mutex_);
  return requests_;
}

void HttpServer::run() {
  while (!stopping_) {
    const int connection = ::accept(listener_, nullptr, nullptr);
    if (connection < 0) return;
    answer(connection);
    ::close(connection);
  }
}

void HttpServer::answer(int connection) {
  const std::string head = receive_head(connection);
  const auto path_begin = head.find(' ') + 1;
  const std::string path = head.substr(path_begin, head.find(' ', path_begin) - path_begin);
  std::unique_lock lock(mutex_);
  requests_.push_back({.path = path, .begin = range_begin(head)});
  const auto found = pages_.find(path);
  if (found == pages_.end()) {
    lock.unlock();
    return send_all(
        connection,
        "HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\nConnection: close\r\n\r\nabsent");
  }
  Page& page = found->second;
  if (!page.redirect_to.empty()) {
    return send_all(connection, "HTTP/1.1 302 Found\r\nLocation: " + page.redirect_to +
                                    "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
  }
  const int64_t begin = page.has_ranges ? range_begin(head) : 0;
  const auto size = std::to_string(page.content.size());
  std::string body = page.content.substr(static_cast<size_t>(begin));
  std::string answer = begin > 0 ? "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes " +
                                       std::to_string(begin) + "-" +
                                       std::to_string(page.content.size() - 1) + "/" + size + "\r\n"
                                 : "HTTP/1.1 200 OK\r\n";
  answer += "Content-Length: " + std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n";
  if (page.cut_after >= 0) {
    body.resize(static_cast<size_t>(page.cut_after));
    page.cut_after = -1;
  }
  lock.unlock();
  send_all(connection, answer + body);
}

}  // namespace outstep::data::testing
