#include "outstep/data/tar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "outstep/data/tar_testing.h"
#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

using testing::data_error;
using testing::gzip;
using ::testing::HasSubstr;
using testing::tar_end;
using testing::tar_entry;
using testing::TempFolder;

std::string extract(const TempFolder& folder, const std::string& archive,
                    std::vector<TarMember> wanted) {
  const auto path = folder.write("archive.tar.gz", archive);
  std::filesystem::create_directories(folder.path() / "out");
  const std::string error =
      data_error([&] { extract_tar_gz(path, wanted, folder.path() / "out"); });
  return error.substr(std::min(error.size(), path.string().size()));
}

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

TEST(Tar, WritesTheWantedMembersAlone) {
  TempFolder folder;
  const std::string big(100'000, 'x');
  const std::string archive =
      gzip(tar_entry("set/", "", '5') + tar_entry("set/read.me", "hello") +
           tar_entry("set/a.bin", big) + tar_entry("set/b.bin", "12345") + tar_end());
  EXPECT_EQ(extract(folder, archive, {{"set/b.bin", 5}, {"set/a.bin", 100'000}}), "");
  EXPECT_THAT(names_in(folder.path() / "out"), ::testing::UnorderedElementsAre("a.bin", "b.bin"));
  EXPECT_EQ(testing::read_file(folder.path() / "out/a.bin"), big);
  EXPECT_EQ(testing::read_file(folder.path() / "out/b.bin"), "12345");
}

TEST(Tar, NothingReachesTheDiskByItsOwnName) {
  TempFolder folder;
  const std::string archive =
      gzip(tar_entry("../escaped", "1") + tar_entry("/tmp/outstep-escaped", "1") +
           tar_entry("link", "", '2', /*link=*/"/etc/passwd") + tar_entry("a", "1") + tar_end());
  EXPECT_EQ(extract(folder, archive, {{"a", 1}}), "");
  EXPECT_THAT(names_in(folder.path() / "out"), ::testing::ElementsAre("a"));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "escaped"));
  EXPECT_FALSE(std::filesystem::exists("/tmp/outstep-escaped"));
  // Not even when it is wanted: the last name counts, and only plain files are taken.
  EXPECT_EQ(extract(folder, archive, {{"../escaped", 1}}), "");
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "out/escaped"));
  EXPECT_EQ(extract(folder, archive, {{"link", 0}}),
            ": link is a link or folder of 0 bytes; a file of 0 is expected");
}

TEST(Tar, RefusesWhatIsNotAsExpected) {
  TempFolder folder;
  const std::string one = tar_entry("a", "12345");
  EXPECT_EQ(extract(folder, gzip(one + tar_end()), {{"b", 1}}), ": b is not in it");
  EXPECT_EQ(extract(folder, gzip(one + tar_end()), {{"a", 6}}),
            ": a is a file of 5 bytes; a file of 6 is expected");
  EXPECT_EQ(extract(folder, gzip(one + one + tar_entry("b", "") + tar_end()), {{"a", 5}, {"b", 0}}),
            ": a is twice in it");
  EXPECT_EQ(extract(folder, one, {{"a", 5}}), ": not a gzipped archive");
  EXPECT_EQ(extract(folder, gzip(std::string(512, 'x')), {{"a", 5}}),
            ": not a tar archive, or a damaged one");
  EXPECT_EQ(extract(folder, gzip(one.substr(0, 514)), {{"a", 5}}),
            ": the archive ends in the middle");
  const std::string packed = gzip(one + tar_end());
  EXPECT_THAT(extract(folder, packed.substr(0, packed.size() / 2), {{"a", 5}}),
              HasSubstr("cut off"));
  std::string damaged = one;
  damaged[0] = 'b';
  EXPECT_EQ(extract(folder, gzip(damaged + tar_end()), {{"b", 5}}),
            ": not a tar archive, or a damaged one");
}

TEST(Tar, LeavesNothingOfAMemberThatWasCutOff) {
  TempFolder folder;
  const std::string archive = gzip((tar_entry("a", std::string(5000, 'x'))).substr(0, 3000));
  EXPECT_EQ(extract(folder, archive, {{"a", 5000}}), ": the archive ends in the middle");
  EXPECT_THAT(names_in(folder.path() / "out"), ::testing::IsEmpty());
}

}  // namespace
}  // namespace outstep::data
