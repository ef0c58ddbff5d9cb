#include "outstep/io/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>

#include "outstep/base/errors.h"

namespace outstep::io {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string complaint(const std::function<void()>& action) {
  try {
    action();
  } catch (const DataError& error) {
    return error.what();
  }
  return "accepted";
}

class Files : public testing::Test {
 protected:
  Files()
      : folder_(fs::path(testing::TempDir()) /
                fmt::format("outstep_files_{}_{}",
                            testing::UnitTest::GetInstance()->current_test_info()->name(),
                            getpid())) {
    fs::create_directories(folder_);
  }
  ~Files() override { fs::remove_all(folder_); }

  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      found.push_back(entry.path().filename().string());
    }
    return found;
  }

  fs::path folder_;
};

TEST_F(Files, ReadsTheSameBytesWholeAndMapped) {
  std::string text = "first\n";
  text += '\0';
  text.append(200'000, 'x');
  write_text_atomically(folder_ / "a", text);
  EXPECT_EQ(read_text(folder_ / "a"), text);
  MappedFile first(folder_ / "a");
  MappedFile file(std::move(first));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()),
            text);
  EXPECT_EQ(file.path(), folder_ / "a");
  EXPECT_TRUE(first.bytes().empty());  // NOLINT: what a moved-from file promises
  file = MappedFile(folder_ / "a");
  EXPECT_EQ(file.bytes().size(), text.size());
}

TEST_F(Files, AnEmptyFileHasNoBytes) {
  write_text_atomically(folder_ / "empty", "");
  EXPECT_EQ(read_text(folder_ / "empty"), "");
  EXPECT_TRUE(MappedFile(folder_ / "empty").bytes().empty());
}

TEST_F(Files, NamesWhatCannotBeRead) {
  const auto missing = folder_ / "missing";
  EXPECT_EQ(complaint([&] { read_text(missing); }),
            missing.string() + ": cannot be opened: No such file or directory");
  EXPECT_EQ(complaint([&] { MappedFile{folder_}; }), folder_.string() + ": a folder, not a file");
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(complaint([&] { read_text(folder_ / "pipe"); }),
              HasSubstr("a pipe, socket or device, not a file"))
      << "without waiting for somebody to write";
}

TEST_F(Files, TellsWhatIsThere) {
  write_text_atomically(folder_ / "a", "");
  EXPECT_TRUE(io::exists(folder_ / "a"));
  EXPECT_FALSE(is_folder(folder_ / "a"));
  EXPECT_TRUE(is_folder(folder_));
  EXPECT_FALSE(io::exists(folder_ / "b"));
  EXPECT_FALSE(is_folder(folder_ / "a" / "below a file"));
  fs::create_symlink("loop", folder_ / "loop");
  EXPECT_EQ(
      complaint([&] { io::exists(folder_ / "loop"); }),
      (folder_ / "loop").string() + ": cannot be looked for: Too many levels of symbolic links");
  EXPECT_THAT(complaint([&] { is_folder(folder_ / std::string(300, 'x')); }),
              HasSubstr("cannot be looked for: File name too long"));
}

TEST_F(Files, MakesFolders) {
  make_folder(folder_ / "new" / "newer");
  make_folder(folder_ / "new" / "newer");
  EXPECT_TRUE(is_folder(folder_ / "new" / "newer"));
  write_text_atomically(folder_ / "a", "");
  EXPECT_EQ(complaint([&] { make_folder(folder_ / "a" / "b"); }),
            (folder_ / "a" / "b").string() + ": the folder cannot be made: Not a directory");
}

TEST_F(Files, AFileIsThereOnlyOnceItIsCommitted) {
  write_text_atomically(folder_ / "a", "old");
  {
    AtomicFile file(folder_ / "a");
    file.write("half of a");
    EXPECT_EQ(read_text(folder_ / "a"), "old");
    EXPECT_EQ(names().size(), 2u);
  }
  EXPECT_EQ(read_text(folder_ / "a"), "old");
  EXPECT_THAT(names(), testing::ElementsAre("a")) << "nothing temporary is left";
  AtomicFile file(folder_ / "a");
  file.write("n");
  file.write("ew");
  file.commit();
  EXPECT_EQ(read_text(folder_ / "a"), "new");
  EXPECT_THAT(names(), testing::ElementsAre("a"));
  EXPECT_THROW(file.commit(), InternalError);
  EXPECT_THROW(file.write("more"), InternalError);
}

TEST_F(Files, TwoWritersOfOneFileDoNotMeet) {
  AtomicFile first(folder_ / "a");
  AtomicFile second(folder_ / "a");
  first.write("first");
  second.write("second");
  second.commit();
  first.commit();
  EXPECT_EQ(read_text(folder_ / "a"), "first");
}

TEST_F(Files, WrittenFilesHaveThePermissionsOfTheUmask) {
  const mode_t before = umask(027);
  write_text_atomically(folder_ / "a", "");
  umask(before);
  EXPECT_EQ(fs::status(folder_ / "a").permissions(), static_cast<fs::perms>(0640));
}

TEST_F(Files, NamesWhatCannotBeWritten) {
  EXPECT_THAT(complaint([&] { AtomicFile file(folder_ / "no" / "a"); }),
              HasSubstr("no/a: cannot be written: No such file or directory"));
  fs::create_directories(folder_ / "taken");
  EXPECT_THAT(complaint([&] { write_text_atomically(folder_ / "taken", "text"); }),
              HasSubstr("taken: cannot be put in place: Is a directory"));
  EXPECT_THAT(names(), testing::ElementsAre("taken"));
  EXPECT_THAT(complaint([&] { sync_folder(folder_ / "no"); }), HasSubstr("No such file"));
}

TEST_F(Files, ANameWithoutAFolderIsOfTheCurrentOne) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  write_text_atomically("here", "text");
  fs::current_path(before);
  EXPECT_EQ(read_text(folder_ / "here"), "text");
}

}  // namespace
}  // namespace outstep::io
