#include "outstep/base/version.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace outstep {
namespace {

using ::testing::MatchesRegex;

TEST(Version, SaysWhatWasBuilt) {
  const BuildInfo& info = build_info();
  EXPECT_THAT(info.version, MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
  EXPECT_THAT(info.commit, MatchesRegex("unknown|[0-9a-f]{7,40}(\\+changes)?"));
  EXPECT_THAT(info.torch_version, MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+.*"));
  EXPECT_THAT(info.compiler, MatchesRegex("(Clang|GNU) [0-9.]+"));
  EXPECT_FALSE(info.build_type.empty());
}

TEST(Version, FindsTheSharedFilesOfTheSourceTree) {
  EXPECT_TRUE(std::filesystem::is_directory(share_dir() / "recipes")) << share_dir();
}

}  // namespace
}  // namespace outstep
