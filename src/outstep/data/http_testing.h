#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace outstep::data::testing {

// A web server on 127.0.0.1, for tests of downloads.
//
//   HttpServer server;
//   server.serve("/a.bin", {.content = bytes});
//   download(path, {.addresses = {server.address("/a.bin")}, …});
//
// It answers one request after another on a thread of its own, and 404 for what it does not serve.
class HttpServer {
 public:
  struct Page {
    std::string content = {};
    bool has_ranges = true;  // answers Range with 206; otherwise with the whole
    int64_t cut_after = -1;  // closes the connection after so many bytes of an answer's body, once
    std::string redirect_to = {};  // answers 302
  };

  HttpServer();
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  void serve(const std::string& path, Page page);
  std::string address(const std::string& path) const;

  struct Request {
    std::string path;
    int64_t begin = 0;  // of its Range
  };
  std::vector<Request> requests() const;

 private:
  void run();
  void answer(int connection);

  int listener_ = -1;
  int port_ = 0;
  mutable std::mutex mutex_;
  std::map<std::string, Page> pages_;  // guarded by mutex_
  std::vector<Request> requests_;      // guarded by mutex_
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

inline void send_all(int connection, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t sent = ::send(connection, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (sent <= 0) return;  // the client has gone
    done += static_cast<size_t>(sent);
  }
}

// The request's head, to the empty line.
inline std::string receive_head(int connection) {
  std::string head;
  char byte = 0;
  while (!head.ends_with("\r\n\r\n") && ::recv(connection, &byte, 1, 0) == 1) head.push_back(byte);
  return head;
}

inline int64_t range_begin(const std::string& head) {
  const auto at = head.find("Range: bytes=");
  return at == std::string::npos ? 0 : std::stoll(head.substr(at + 13));
}

inline HttpServer::HttpServer() {
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

inline HttpServer::~HttpServer() {
  stopping_ = true;
  ::shutdown(listener_, SHUT_RDWR);  // ends accept
  thread_.join();
  ::close(listener_);
}

inline void HttpServer::serve(const std::string& path, Page page) {
  std::lock_guard lock(mutex_);
  pages_[path] = std::move(page);
}

inline std::string HttpServer::address(const std::string& path) const {
  return "http://127.0.0.1:" + std::to_string(port_) + path;
}

inline std::vector<HttpServer::Request> HttpServer::requests() const {
  std::lock_guard lock(mutex_);
  return requests_;
}

inline void HttpServer::run() {
  while (!stopping_) {
    const int connection = ::accept(listener_, nullptr, nullptr);
    if (connection < 0) return;
    answer(connection);
    ::close(connection);
  }
}

inline void HttpServer::answer(int connection) {
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
