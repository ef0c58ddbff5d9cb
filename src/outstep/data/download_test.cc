#include "outstep/data/download.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "outstep/base/hash.h"
#include "outstep/base/rng.h"
#include "outstep/data/http_testing.h"
#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

using testing::data_error;
using ::testing::HasSubstr;
using testing::HttpServer;

std::string hash_of(const std::string& bytes) {
  Sha256 hash;
  hash.update(std::as_bytes(std::span(bytes)));
  return hash.hex();
}

class Download : public ::testing::Test {
 protected:
  Download() {
    setenv("no_proxy", "127.0.0.1", 1);  // a proxy of this machine's has no part in these tests
    CounterRng rng({.seed = 1, .purpose = purpose("test")});
    for (char& byte : content_) byte = static_cast<char>(rng.below(256));
  }

  DownloadOptions options(const std::string& path) const {
    return options(std::vector<std::string>{path});
  }
  DownloadOptions options(const std::vector<std::string>& paths) const {
    DownloadOptions wanted{.num_bytes = static_cast<int64_t>(content_.size()),
                           .sha256 = hash_of(content_)};
    for (const std::string& path : paths) wanted.addresses.push_back(server_.address(path));
    return wanted;
  }
  std::filesystem::path target() const { return folder_.path() / "file.bin"; }
  std::filesystem::path part() const { return folder_.path() / "file.bin.part"; }

  std::string content_ = std::string(300'000, '\0');
  HttpServer server_;
  testing::TempFolder folder_;
};

TEST_F(Download, BringsAFileWithProgress) {
  server_.serve("/f", {.content = content_});
  DownloadOptions wanted = options("/f");
  int64_t last = 0;
  wanted.on_progress = [&](int64_t done, int64_t total) {
    EXPECT_GE(done, last);
    EXPECT_EQ(total, 300'000);
    last = done;
  };
  download(target(), wanted);
  EXPECT_EQ(testing::read_file(target()), content_);
  EXPECT_EQ(last, 300'000);
  EXPECT_FALSE(std::filesystem::exists(part()));
}

TEST_F(Download, GoesOnWhereItWasInterrupted) {
  server_.serve("/f", {.content = content_, .cut_after = 100'000});
  const std::string error = data_error([&] { download(target(), options("/f")); });
  EXPECT_THAT(
      error,
      HasSubstr("the download stopped at 100 kB of 300 kB; the same command goes on from there"));
  EXPECT_THAT(error, HasSubstr(server_.address("/f")));
  EXPECT_FALSE(std::filesystem::exists(target()));
  ASSERT_EQ(std::filesystem::file_size(part()), 100'000);
  download(target(), options("/f"));
  EXPECT_EQ(testing::read_file(target()), content_);
  ASSERT_EQ(server_.requests().size(), 2);
  EXPECT_EQ(server_.requests()[1].begin, 100'000);
}

TEST_F(Download, BeginsAnewWhereTheServerCannotGoOn) {
  folder_.write("file.bin.part", content_.substr(0, 5000));
  server_.serve("/f", {.content = content_, .has_ranges = false});
  download(target(), options("/f"));
  EXPECT_EQ(testing::read_file(target()), content_);
}

TEST_F(Download, TakesAPartThatIsComplete) {
  folder_.write("file.bin.part", content_);
  download(target(), options("/f"));
  EXPECT_EQ(testing::read_file(target()), content_);
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(Download, BeginsAnewOverAPartOfAnotherFile) {
  server_.serve("/f", {.content = content_});
  for (const size_t size : {10'000, 300'000, 400'000}) {
    folder_.write("file.bin.part", std::string(size, 'x'));
    download(target(), options("/f"));
    EXPECT_EQ(testing::read_file(target()), content_);
  }
}

TEST_F(Download, RefusesAWrongHashAndLeavesNothing) {
  std::string other = content_;
  other[7] ^= 1;
  server_.serve("/f", {.content = other});
  EXPECT_EQ(data_error([&] { download(target(), options("/f")); }),
            target().string() + ": the download failed:\n    " + server_.address("/f") +
                ": its SHA-256 is " + hash_of(other) + ", but " + hash_of(content_) +
                " is expected");
  EXPECT_FALSE(std::filesystem::exists(target()));
  EXPECT_FALSE(std::filesystem::exists(part()));
}

TEST_F(Download, RefusesFilesOfAnotherSize) {
  server_.serve("/long", {.content = content_ + "x"});
  EXPECT_THAT(data_error([&] { download(target(), options("/long")); }),
              HasSubstr("it sends more than the 300,000 bytes expected"));
  server_.serve("/short", {.content = content_.substr(0, 1000)});
  EXPECT_THAT(data_error([&] { download(target(), options("/short")); }),
              HasSubstr("it sends 1,000 bytes, 300,000 are expected"));
}

TEST_F(Download, TriesTheNextAddress) {
  std::string other = content_;
  other[7] ^= 1;
  server_.serve("/wrong", {.content = other});
  server_.serve("/right", {.content = content_});
  download(target(), options(std::vector<std::string>{"/absent", "/wrong", "/right"}));
  EXPECT_EQ(testing::read_file(target()), content_);
}

TEST_F(Download, SaysWhyEachAddressFailed) {
  const std::string error =
      data_error([&] { download(target(), options(std::vector<std::string>{"/one", "/two"})); });
  EXPECT_THAT(error, HasSubstr(target().string() + ": the download failed:"));
  EXPECT_THAT(error,
              HasSubstr(server_.address("/one") + ": The requested URL returned error: 404"));
  EXPECT_THAT(error,
              HasSubstr(server_.address("/two") + ": The requested URL returned error: 404"));
  EXPECT_FALSE(std::filesystem::exists(part()));
}

TEST_F(Download, FollowsRedirectionsToTheWebAlone) {
  server_.serve("/f", {.content = content_});
  server_.serve("/moved", {.redirect_to = server_.address("/f")});
  download(target(), options("/moved"));
  EXPECT_EQ(testing::read_file(target()), content_);
  server_.serve("/file", {.redirect_to = "file:///etc/passwd"});
  EXPECT_THAT(data_error([&] { download(folder_.path() / "other", options("/file")); }),
              HasSubstr("rotocol"));
}

TEST_F(Download, StopsWhenAskedAndKeepsWhatCame) {
  server_.serve("/f", {.content = content_});
  std::atomic<bool> stop = false;
  DownloadOptions wanted = options("/f");
  wanted.stop = &stop;
  wanted.on_progress = [&](int64_t done, int64_t) { stop = done > 0; };
  EXPECT_THAT(data_error([&] { download(target(), wanted); }),
              HasSubstr("the same command goes on from there"));
  EXPECT_FALSE(std::filesystem::exists(target()));
  EXPECT_GT(std::filesystem::file_size(part()), 0);
  download(target(), options("/f"));
  EXPECT_EQ(testing::read_file(target()), content_);
}

TEST_F(Download, RefusesASecondOneToTheSamePath) {
  server_.serve("/f", {.content = content_});
  DownloadOptions wanted = options("/f");
  std::string error;
  wanted.on_progress = [&](int64_t done, int64_t) {
    if (done > 0 && error.empty()) error = data_error([&] { download(target(), options("/f")); });
  };
  download(target(), wanted);
  EXPECT_EQ(error, target().string() + ": another process is downloading it");
  EXPECT_EQ(testing::read_file(target()), content_);
}

TEST_F(Download, NeedsAFolderItCanWriteTo) {
  folder_.write("file", "");
  EXPECT_THAT(data_error([&] { download(folder_.path() / "file/below", options("/f")); }),
              HasSubstr("file/below.part: cannot be written: Not a directory"));
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(Download, MakesItsFolderWithTheFirstByte) {
  const auto folder = folder_.path() / "new/newer";
  EXPECT_NE(data_error([&] { download(folder / "file", options("/absent")); }), "");
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "new"));
  server_.serve("/f", {.content = content_});
  download(folder / "file", options("/f"));
  EXPECT_EQ(testing::read_file(folder / "file"), content_);
}

TEST_F(Download, SaysThatAFileCannotBePutInPlace) {
  folder_.write("file.bin/taken", "");
  server_.serve("/f", {.content = content_});
  EXPECT_THAT(data_error([&] { download(target(), options("/f")); }),
              HasSubstr("file.bin.part: cannot be put in place: Is a directory"));
}

}  // namespace
}  // namespace outstep::data
