// What every writer of this room does when the disk is full.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "outstep/base/errors.h"
#include "outstep/io/chrome_trace.h"
#include "outstep/io/files.h"
#include "outstep/io/jsonl.h"
#include "outstep/io/safetensors.h"
#include "outstep/io/tensorboard.h"

namespace outstep::io {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class FullDisk : public testing::Test {
 protected:
  FullDisk()
      : folder_(fs::path(testing::TempDir()) /
                fmt::format("outstep_full_{}_{}",
                            testing::UnitTest::GetInstance()->current_test_info()->name(),
                            getpid())) {
    fs::create_directories(folder_);
  }
  ~FullDisk() override { fs::remove_all(folder_); }

  // Runs action on a thread that alone sees a file system of 64 KiB at folder_; it ends with the
  // thread. Skips the test where that is not allowed.
  void on_small_disk(const std::function<void()>& action) {
    bool is_mounted = false;
    std::thread([&] {
      is_mounted = ::unshare(CLONE_NEWNS) == 0 &&
                   ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                   ::mount("tmpfs", folder_.c_str(), "tmpfs", 0, "size=64k") == 0;
      if (is_mounted) action();
    }).join();
    if (!is_mounted) GTEST_SKIP() << "mounting a small disk needs root";
  }

  static std::string complaint(const std::function<void()>& action) {
    try {
      action();
    } catch (const DataError& error) {
      return error.what();
    }
    return "accepted";
  }

  fs::path folder_;
};

TEST_F(FullDisk, ASaveThatDoesNotFitLeavesTheFileBefore) {
  on_small_disk([&] {
    const fs::path path = folder_ / "model.safetensors";
    write_safetensors(path, {{"a", at::ones({1000})}});
    const std::string before = read_text(path);
    EXPECT_EQ(complaint([&] { write_safetensors(path, {{"a", at::ones({100'000})}}); }),
              path.string() + ": writing failed: No space left on device");
    EXPECT_EQ(read_text(path), before);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << "nothing else is left";
    write_safetensors(path, {{"a", at::ones({2000})}});  // what was half written is given back
  });
}

TEST_F(FullDisk, LogsSayIt) {
  on_small_disk([&] {
    const std::string kilobyte(1000, 'x');
    EXPECT_THAT(complaint([&] {
                  JsonLines lines(folder_ / "m.jsonl");
                  for (int i = 0; i < 100; ++i) lines.write({{"text", kilobyte}});
                }),
                HasSubstr("m.jsonl: writing failed: No space left on device"));
    EXPECT_THAT(complaint([&] {
                  TensorBoardWriter writer(folder_);
                  for (int i = 0; i < 100; ++i) writer.text("text", kilobyte, i);
                  writer.flush();
                }),
                HasSubstr("writing failed: No space left on device"));
    trace::Tracer tracer;
    for (int i = 0; i < 1000; ++i) {
      tracer.record(trace::Track::compute, "forward", tracer.origin(), tracer.origin(), {});
    }
    EXPECT_THAT(complaint([&] { write_chrome_trace(folder_ / "trace.json", tracer, 0); }),
                HasSubstr("trace.json: writing failed: No space left on device"));
    EXPECT_FALSE(fs::exists(folder_ / "trace.json"));
  });
}

// The same without root: past the limit of a file's size, a write is first cut short, then refused.
TEST_F(FullDisk, ASaveBeyondTheFileSizeLimitLeavesTheFileBefore) {
  const fs::path path = folder_ / "model.safetensors";
  write_safetensors(path, {{"a", at::ones({1000})}});
  const std::string before = read_text(path);
  rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const rlimit limit{.rlim_cur = 100'001, .rlim_max = old_limit.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string error =
      complaint([&] { write_safetensors(path, {{"a", at::ones({100'000})}}); });
  ::setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(error, path.string() + ": writing failed: File too large");
  EXPECT_EQ(read_text(path), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
}

}  // namespace
}  // namespace outstep::io
