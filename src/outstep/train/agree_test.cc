#include "outstep/train/agree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <new>

#include "outstep/base/errors.h"
#include "outstep/base/torch.h"
#include "outstep/comm/local_group.h"

namespace outstep::train {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// What three ranks throw, alike, when the work fails on rank 1: "KIND, EXIT CODE: MESSAGE".
std::string common_error(const std::function<void()>& failing_work) {
  std::vector<std::string> errors(3);
  comm::run_local_ranks(3, [&](comm::Group& group) {
    try {
      together(group, [&] {
        if (group.rank() == 1) failing_work();
      });
    } catch (const Error& error) {
      errors[static_cast<size_t>(group.rank())] =
          fmt::format("{}, {}: {}", error.kind(), error.exit_code(), error.what());
    }
  });
  EXPECT_EQ(errors[0], errors[1]);
  EXPECT_EQ(errors[2], errors[1]);
  return errors[0];
}

TEST(Agree, AnErrorKeepsItsKindAndWordsOnEveryRank) {
  EXPECT_EQ(common_error([] { throw ConfigError("no"); }), "config error, 2: no");
  EXPECT_EQ(common_error([] { throw DataError("x.bin: {} bytes short", 1); }),
            "data error, 3: x.bin: 1 bytes short");
  const InternalError internal("broken promise");
  EXPECT_EQ(common_error([&] { throw internal; }),
            fmt::format("internal error, 70: {}", internal.what()));
  EXPECT_EQ(common_error([] {}), "");
}

TEST(Agree, MemoryThatRanOutIsTheRecipesDoing) {
  for (const auto& work : std::vector<std::function<void()>>{
           [] { throw std::bad_alloc(); }, [] { at::empty({int64_t{1} << 60}); }}) {
    const std::string error = common_error(work);
    EXPECT_THAT(error, StartsWith("config error, 2: not enough memory on this machine ("));
    EXPECT_THAT(error, HasSubstr("engine.micro_batch"));
    EXPECT_THAT(error, Not(HasSubstr("\n")));
  }
}

TEST(Agree, AFileSystemsRefusalIsADataError) {
  const std::string error = common_error([] { (void)std::filesystem::file_size("/no/such/file"); });
  EXPECT_THAT(error, StartsWith("data error, 3: "));
  EXPECT_THAT(error, HasSubstr("/no/such/file"));
}

TEST(Agree, WhatLibTorchComplainsOfIsOursWithoutAStackTrace) {
  const std::string error = common_error([] { at::empty({2}).add_(at::empty({3})); });
  EXPECT_THAT(error, StartsWith("internal error, 70: LibTorch: The size of tensor"));
  EXPECT_THAT(error, Not(HasSubstr("\n")));
}

}  // namespace
}  // namespace outstep::train
