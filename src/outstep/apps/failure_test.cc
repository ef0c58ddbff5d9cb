#include "outstep/apps/failure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <new>

#include "outstep/base/errors.h"
#include "outstep/base/torch.h"

namespace outstep::apps {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

template <typename E>
Failure failure_of(E error) {
  return describe_failure(std::make_exception_ptr(std::move(error)));
}

TEST(Failure, KeepsKindCodeAndMessage) {
  const Failure failure = failure_of(DataError("data/x.bin: one byte short"));
  EXPECT_EQ(failure.exit_code, 3);
  EXPECT_EQ(failure.text(), "outstep: data error: data/x.bin: one byte short");
}

TEST(Failure, PutsTheHintOnALineOfItsOwn) {
  Failure failure = failure_of(CommError("rank 1 closed its connection"));
  failure.hint = "continue with: outstep resume runs/a";
  EXPECT_EQ(failure.text(),
            "outstep: communication error: rank 1 closed its connection\n"
            "  continue with: outstep resume runs/a");
  EXPECT_EQ(failure_of(FailureError(failure)).text(), failure.text());
}

TEST(Failure, MemoryThatRanOutIsTheRecipesDoing) {
  const Failure failure = failure_of(std::bad_alloc());
  EXPECT_EQ(failure.exit_code, 2);
  EXPECT_THAT(failure.message, HasSubstr("engine.micro_batch"));
  try {
    at::empty({int64_t{1} << 60});
    FAIL();
  } catch (...) {
    const Failure tensor = describe_failure(std::current_exception());
    EXPECT_EQ(tensor.exit_code, 2) << tensor.message;
  }
}

TEST(Failure, AFileSystemsRefusalIsADataError) {
  const std::filesystem::filesystem_error error(
      "cannot get file size", "/data/x",
      std::make_error_code(std::errc::no_such_file_or_directory));
  EXPECT_EQ(failure_of(error).exit_code, 3);
  EXPECT_THAT(failure_of(error).text(), StartsWith("outstep: data error: "));
  EXPECT_THAT(failure_of(error).text(), HasSubstr("/data/x"));
}

TEST(Failure, EverythingUnexpectedIsOurs) {
  EXPECT_EQ(failure_of(std::runtime_error("odd")).exit_code, 70);
  EXPECT_EQ(failure_of(std::runtime_error("odd")).text(), "outstep: internal error: odd");
  try {
    at::empty({2}).add_(at::empty({3}));
    FAIL();
  } catch (...) {
    const Failure failure = describe_failure(std::current_exception());
    EXPECT_EQ(failure.exit_code, 70);
    EXPECT_THAT(failure.message, StartsWith("LibTorch: The size of tensor"));
    EXPECT_THAT(failure.message, testing::Not(HasSubstr("Exception raised from")));
  }
}

TEST(Failure, SurvivesTheWayToTheLauncher) {
  const Failure sent{.rank = 3,
                     .kind = "data error",
                     .exit_code = 3,
                     .message = "line one\nline two \"quoted\" \xff",
                     .hint = "h",
                     .at_seconds = 12.5,
                     .signal = 0};
  const std::string line = encode(sent);
  EXPECT_EQ(line.find('\n'), line.size() - 1) << "one line";
  const auto received = decode(line);
  ASSERT_TRUE(received);
  EXPECT_EQ(received->rank, 3);
  EXPECT_EQ(received->at_seconds, 12.5);
  EXPECT_THAT(received->message, StartsWith("line one\nline two \"quoted\""));
  for (const char* foreign : {"", "{", "[]", "12", "{\"rank\": 1}", "{\"rank\": \"x\"}"}) {
    EXPECT_FALSE(decode(foreign)) << foreign;
  }
}

TEST(Failure, TheFirstIsTheOneThatExplainsTheOthers) {
  const Failure echo{.rank = 0, .kind = "communication error", .exit_code = 4, .at_seconds = 1};
  const Failure late_echo{
      .rank = 2, .kind = "communication error", .exit_code = 4, .at_seconds = 2};
  const Failure cause{.rank = 1, .kind = "data error", .exit_code = 3, .at_seconds = 3};
  const Failure killed{
      .rank = 3, .kind = "communication error", .exit_code = 4, .at_seconds = 4, .signal = SIGKILL};
  EXPECT_EQ(first_failure(std::vector<Failure>{}), nullptr);
  const std::vector<Failure> echoes{late_echo, echo};
  EXPECT_EQ(first_failure(echoes)->rank, 0);
  const Failure same{
      .rank = 1, .kind = "config error", .exit_code = 2, .message = "x", .at_seconds = 1};
  Failure same_on_0 = same;
  same_on_0.rank = 0;
  same_on_0.at_seconds = 2;
  const std::vector<Failure> agreed{same, same_on_0};
  EXPECT_EQ(first_failure(agreed)->rank, 0) << "what all ranks say alike is rank 0's";
  const std::vector<Failure> with_cause{echo, late_echo, cause};
  EXPECT_EQ(first_failure(with_cause)->rank, 1);
  const std::vector<Failure> with_killed{echo, late_echo, killed};
  EXPECT_EQ(first_failure(with_killed)->rank, 3);
  EXPECT_EQ(signal_name(SIGKILL), "signal 9 (Killed)");
}

}  // namespace
}  // namespace outstep::apps
