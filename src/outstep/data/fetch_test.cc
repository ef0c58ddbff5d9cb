#include "outstep/data/fetch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <span>

#include "outstep/base/hash.h"
#include "outstep/data/http_testing.h"
#include "outstep/data/tar_testing.h"
#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

using testing::data_error;
using ::testing::ElementsAre;
using testing::gzip;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string hash_of(const std::string& bytes) {
  Sha256 hash;
  hash.update(std::as_bytes(std::span(bytes)));
  return hash.hex();
}

// A set of two files, one of them compressed, and a set of two files in an archive.
class Fetch : public ::testing::Test {
 protected:
  Fetch() {
    setenv("no_proxy", "127.0.0.1", 1);  // a proxy of this machine's has no part in these tests
    server_.serve("/text.txt", {.content = text_});
    server_.serve("/images.gz", {.content = images_});
    server_.serve("/set.tar.gz", {.content = archive_});
  }

  CatalogueEntry loose() const {
    return {.name = "loose",
            .folder = "loose-set",
            .files = {{.name = "text.txt",
                       .num_bytes = static_cast<int64_t>(text_.size()),
                       .sha256 = hash_of(text_),
                       .addresses = {server_.address("/text.txt")}},
                      {.name = "images.gz",
                       .num_bytes = static_cast<int64_t>(images_.size()),
                       .sha256 = hash_of(images_),
                       .content_sha256 = hash_of("some images"),
                       .addresses = {server_.address("/images.gz")}}}};
  }
  CatalogueEntry packed() const {
    return {.name = "packed",
            .folder = "packed-set",
            .archives = {{.name = "set.tar.gz",
                          .num_bytes = static_cast<int64_t>(archive_.size()),
                          .sha256 = hash_of(archive_),
                          .addresses = {server_.address("/set.tar.gz")}}},
            .files = {
                {.name = "a.bin", .num_bytes = 3, .sha256 = hash_of("aaa"), .member = "set/a.bin"},
                {.name = "b.bin", .num_bytes = 5, .member = "set/b.bin"}}};
  }
  std::filesystem::path root() const { return folder_.path() / "data"; }
  std::string content(const std::string& name) const { return testing::read_file(root() / name); }

  std::string text_ = "some text";
  std::string images_ = gzip("some images");
  std::string archive_ = gzip(testing::tar_entry("set/a.bin", "aaa") +
                              testing::tar_entry("set/b.bin", "bbbbb") + testing::tar_end());
  testing::HttpServer server_;
  testing::TempFolder folder_;
};

TEST_F(Fetch, DownloadsOnce) {
  const FetchReport report = fetch(loose(), {.data_root = root()});
  EXPECT_EQ(report.folder, root() / "loose-set");
  EXPECT_THAT(report.fetched, ElementsAre("text.txt", "images.gz"));
  EXPECT_EQ(content("loose-set/text.txt"), text_);
  EXPECT_EQ(content("loose-set/images.gz"), images_);
  const FetchReport again = fetch(loose(), {.data_root = root()});
  EXPECT_THAT(again.fetched, IsEmpty());
  EXPECT_THAT(again.already_there, ElementsAre("text.txt", "images.gz"));
  EXPECT_EQ(server_.requests().size(), 2);
}

TEST_F(Fetch, ReplacesAFileThatIsWrong) {
  folder_.write("data/loose-set/text.txt", "some tex");
  const FetchReport report = fetch(loose(), {.data_root = root()});
  EXPECT_THAT(report.fetched, ElementsAre("text.txt", "images.gz"));
  EXPECT_EQ(content("loose-set/text.txt"), text_);
}

TEST_F(Fetch, ReplacesACompressedFileThatWasCutOff) {
  folder_.write("data/loose-set/images.gz", images_.substr(0, 20));
  EXPECT_THAT(fetch(loose(), {.data_root = root()}).fetched, ElementsAre("text.txt", "images.gz"));
  EXPECT_EQ(content("loose-set/images.gz"), images_);
}

TEST_F(Fetch, UnpacksAnArchiveAndRemovesIt) {
  std::vector<std::string> shown;
  const FetchReport report =
      fetch(packed(), {.data_root = root(), .on_progress = [&](const FetchProgress& progress) {
                         shown.push_back(progress.file);
                       }});
  EXPECT_THAT(report.fetched, ElementsAre("a.bin", "b.bin"));
  EXPECT_EQ(content("packed-set/a.bin"), "aaa");
  EXPECT_EQ(content("packed-set/b.bin"), "bbbbb");
  EXPECT_FALSE(std::filesystem::exists(root() / "packed-set/set.tar.gz"));
  EXPECT_THAT(shown, ::testing::Contains("set.tar.gz"));
  EXPECT_THAT(fetch(packed(), {.data_root = root()}).fetched, IsEmpty());
}

TEST_F(Fetch, GoesOnAfterAnInterruption) {
  server_.serve("/set.tar.gz", {.content = archive_, .cut_after = 50});
  EXPECT_THAT(data_error([&] { fetch(packed(), {.data_root = root()}); }),
              HasSubstr("the same command goes on from there"));
  fetch(packed(), {.data_root = root()});
  EXPECT_EQ(content("packed-set/b.bin"), "bbbbb");
  EXPECT_EQ(server_.requests().back().begin, 50);
}

TEST_F(Fetch, UnpacksAnArchiveThatWasDownloadedBefore) {
  folder_.write("data/packed-set/set.tar.gz", archive_);
  EXPECT_THAT(fetch(packed(), {.data_root = root()}).fetched, ElementsAre("a.bin", "b.bin"));
  EXPECT_TRUE(server_.requests().empty());
  EXPECT_FALSE(std::filesystem::exists(root() / "packed-set/set.tar.gz"));
  // Stopped between the last file and the removal.
  folder_.write("data/packed-set/set.tar.gz", archive_);
  EXPECT_THAT(fetch(packed(), {.data_root = root()}).fetched, IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(root() / "packed-set/set.tar.gz"));
  // Another file of that name.
  std::filesystem::remove(root() / "packed-set/a.bin");
  folder_.write("data/packed-set/set.tar.gz", archive_.substr(1));
  EXPECT_THAT(fetch(packed(), {.data_root = root()}).fetched, ElementsAre("a.bin"));
  EXPECT_EQ(server_.requests().size(), 1);
}

TEST_F(Fetch, MakesNoFolderWhenItFails) {
  folder_.write("empty/x", "");
  CatalogueEntry absent = loose();
  absent.files[0].addresses = {server_.address("/absent")};
  EXPECT_NE(data_error([&] { fetch(absent, {.data_root = root()}); }), "");
  EXPECT_NE(
      data_error([&] { fetch(loose(), {.data_root = root(), .from = folder_.path() / "empty"}); }),
      "");
  EXPECT_FALSE(std::filesystem::exists(root()));
}

TEST_F(Fetch, CopiesFromAFolderWithTheFilesOrWithTheSetsFolder) {
  for (const std::string place : {"one/", "two/loose-set/"}) {
    folder_.write(place + "text.txt", text_);
    folder_.write(place + "images.gz", images_);
  }
  for (const std::string from : {"one", "two"}) {
    std::filesystem::remove_all(root());
    const FetchReport report = fetch(loose(), {.data_root = root(), .from = folder_.path() / from});
    EXPECT_THAT(report.fetched, ElementsAre("text.txt", "images.gz"));
    EXPECT_EQ(content("loose-set/text.txt"), text_);
  }
  EXPECT_TRUE(server_.requests().empty());
}

TEST_F(Fetch, TakesImagesThatWereCompressedAnewOrNotAtAll) {
  folder_.write("plain/text.txt", text_);
  folder_.write("plain/images", "some images");
  fetch(loose(), {.data_root = root(), .from = folder_.path() / "plain"});
  EXPECT_EQ(content("loose-set/images"), "some images");
  std::string anew = images_;
  anew[4] ^= 1;  // the time of compression
  folder_.write("anew/text.txt", text_);
  folder_.write("anew/images.gz", anew);
  std::filesystem::remove_all(root());
  fetch(loose(), {.data_root = root(), .from = folder_.path() / "anew"});
  EXPECT_EQ(content("loose-set/images.gz"), anew);
  EXPECT_THAT(fetch(loose(), {.data_root = root(), .from = folder_.path() / "plain"}).already_there,
              ElementsAre("text.txt", "images.gz"));
}

TEST_F(Fetch, UnpacksALocalArchive) {
  folder_.write("from/set.tar.gz", archive_);
  const FetchReport report =
      fetch(packed(), {.data_root = root(), .from = folder_.path() / "from"});
  EXPECT_THAT(report.fetched, ElementsAre("a.bin", "b.bin"));
  EXPECT_EQ(content("packed-set/b.bin"), "bbbbb");
  EXPECT_TRUE(std::filesystem::exists(folder_.path() / "from/set.tar.gz"));
}

TEST_F(Fetch, ReportsWhatALocalFolderDoesNotHave) {
  folder_.write("from/a.bin", "aaa");
  const FetchReport report =
      fetch(packed(), {.data_root = root(), .from = folder_.path() / "from"});
  EXPECT_THAT(report.fetched, ElementsAre("a.bin"));
  EXPECT_THAT(report.missing, ElementsAre("b.bin"));
}

TEST_F(Fetch, RefusesWrongAndMissingLocalFiles) {
  const auto error = [&](const CatalogueEntry& entry, const std::string& from) {
    return data_error([&] { fetch(entry, {.data_root = root(), .from = folder_.path() / from}); });
  };
  folder_.write("wrong/text.txt", "some tent");
  EXPECT_EQ(error(loose(), "wrong"), (folder_.path() / "wrong/text.txt").string() +
                                         ": not the file of \"loose\": its SHA-256 is " +
                                         hash_of("some tent") + ", but " + hash_of(text_) +
                                         " is expected");
  folder_.write("short/text.txt", "some");
  EXPECT_THAT(error(loose(), "short"), HasSubstr("it has 4 bytes, but 9 are expected"));
  folder_.write("images/images.gz", gzip("other images"));
  EXPECT_THAT(error(loose(), "images"),
              HasSubstr("its content has the SHA-256 " + hash_of("other images")));
  folder_.write("archive/set.tar.gz", archive_.substr(0, 60));
  EXPECT_THAT(error(packed(), "archive"), HasSubstr("set.tar.gz: its SHA-256 is "));
  folder_.write("empty/x", "");
  EXPECT_EQ(error(loose(), "empty"),
            "no file of \"loose\" is in " + (folder_.path() / "empty").string() + " or " +
                (folder_.path() / "empty/loose-set").string() + "; looked for text.txt, images.gz");
  EXPECT_EQ(error(loose(), "absent"),
            (folder_.path() / "absent").string() + ": --from needs a folder");
}

TEST_F(Fetch, SaysThatASetHasNoAddress) {
  CatalogueEntry entry = loose();
  for (CatalogueFile& file : entry.files) file.addresses.clear();
  EXPECT_EQ(data_error([&] { fetch(entry, {.data_root = root()}); }),
            "\"loose\" has no public address to fetch it from; outstep data get loose --from "
            "FOLDER takes it from a "
            "folder that has it");
}

TEST_F(Fetch, StopsBetweenFiles) {
  folder_.write("from/text.txt", text_);
  const std::atomic<bool> stop = true;
  EXPECT_THAT(data_error([&] {
                fetch(loose(),
                      {.data_root = root(), .from = folder_.path() / "from", .stop = &stop});
              }),
              HasSubstr("stopped"));
  EXPECT_FALSE(std::filesystem::exists(root()));
}

TEST_F(Fetch, NeedsADataRootItCanWriteTo) {
  const auto file = folder_.write("file", "");
  EXPECT_THAT(data_error([&] { fetch(loose(), {.data_root = file}); }),
              HasSubstr("text.txt.part: cannot be written: Not a directory"));
  EXPECT_THAT(data_error([&] { fetch(loose(), {.data_root = file / "data"}); }),
              HasSubstr("Not a directory"));
}

}  // namespace
}  // namespace outstep::data
