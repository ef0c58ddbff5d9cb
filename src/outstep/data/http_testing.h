#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
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

}  // namespace outstep::data::testing
