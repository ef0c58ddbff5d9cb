#include "outstep/apps/invocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "outstep/apps/commands.h"
#include "outstep/base/errors.h"

namespace outstep::apps {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A small program: "paint RECIPE [--wide]", "shelf list", "start [--] PROGRAM".
class Program {
 public:
  explicit Program(std::vector<std::string> arguments) : invocation_(std::move(arguments)) {
    CLI::App& paint = invocation_.add_command(
        {.name = "paint", .summary = "Paints", .examples = "outstep paint wall"});
    paint.add_option("recipe", recipe, "What")->required();
    paint.add_flag("--wide", wide, "How");
    invocation_.takes_json(paint);
    invocation_.takes_overrides(paint, overrides);
    invocation_.on_run(paint, [this] { return ran = 1; });
    CLI::App& shelf =
        invocation_.add_command({.name = "shelf", .summary = "Shelf", .examples = ""});
    CLI::App& list =
        invocation_.add_command({.name = "list", .summary = "List", .examples = ""}, &shelf);
    invocation_.on_run(list, [this] { return ran = 2; });
    CLI::App& start = invocation_.add_command({.name = "start", .summary = "S", .examples = ""});
    invocation_.passes_on(start, unknown, program);
    invocation_.on_run(start, [this] { return ran = 3; });
  }

  int run() { return invocation_.run(); }
  bool wants_json() const { return invocation_.wants_json(); }
  std::string error() {
    try {
      run();
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "none";
  }

  std::string recipe;
  bool wide = false;
  std::vector<std::string> overrides, unknown, program;
  int ran = 0;

 private:
  Invocation invocation_;
};

TEST(Invocation, ReadsFlagsAndOverridesInAnyOrder) {
  Program program({"paint", "--a.b=1", "wall", "--wide", "--data.path=x y", "--c.d="});
  EXPECT_EQ(program.run(), 1);
  EXPECT_EQ(program.recipe, "wall");
  EXPECT_TRUE(program.wide);
  EXPECT_THAT(program.overrides, ElementsAre("a.b=1", "data.path=x y", "c.d="));
  EXPECT_FALSE(program.wants_json());
}

TEST(Invocation, KnowsThatJsonIsWantedEvenWhenTheRestIsWrong) {
  EXPECT_TRUE(Program({"paint", "wall", "--json"}).wants_json());
  EXPECT_TRUE(Program({"pant", "--json"}).wants_json());
  EXPECT_FALSE(Program({"start", "--", "other", "--json"}).wants_json());
}

TEST(Invocation, UnknownWordsGetTheNearestSpelling) {
  EXPECT_EQ(Program({"piant", "wall"}).error(),
            "outstep has no command \"piant\"; did you mean \"paint\"?; see: outstep --help");
  EXPECT_EQ(Program({"--versoin"}).error(),
            "outstep has no flag \"--versoin\"; did you mean \"--version\"?; see: outstep --help");
  EXPECT_EQ(Program({"paint", "wall", "--wdie"}).error(),
            "outstep paint has no flag \"--wdie\"; did you mean \"--wide\"?; see: outstep paint "
            "--help");
  EXPECT_EQ(Program({"paint", "--jsno"}).error(),
            "outstep paint has no flag \"--jsno\"; did you mean \"--json\"?; see: outstep paint "
            "--help")
      << "the slip is told rather than the missing recipe";
  EXPECT_EQ(Program({"shelf", "lsit"}).error(),
            "outstep shelf has no command \"lsit\"; did you mean \"list\"?; see: outstep shelf "
            "--help");
  EXPECT_EQ(Program({"shelf"}).error(), "outstep shelf needs one of: list");
  EXPECT_EQ(Program({"shelf", "list", "--json"}).error(),
            "outstep shelf list has no flag \"--json\"; see: outstep shelf list --help");
}

TEST(Invocation, WhatCannotBeUsedIsAnError) {
  EXPECT_EQ(Program({"paint"}).error(), "recipe is required; see: outstep paint --help");
  EXPECT_EQ(Program({"paint", "wall", "fence"}).error(),
            "outstep paint has no use for \"fence\"; see: outstep paint --help");
  EXPECT_EQ(Program({"paint", "wall", "--a.b"}).error(),
            "--a.b needs its value behind an equals sign: --a.b=VALUE");
  EXPECT_THAT(Program({"shelf", "list", "--a.b=1"}).error(), HasSubstr("has no flag \"--a.b\""));
}

TEST(Invocation, PassesOnWhatIsForAnotherProgram) {
  Program program({"start", "--fast", "x", "--", "python", "--", "-c"});
  EXPECT_EQ(program.run(), 3);
  EXPECT_THAT(program.unknown, ElementsAre("--fast", "x"));
  EXPECT_THAT(program.program, ElementsAre("python", "--", "-c"));
}

TEST(Invocation, EveryCommandHasHelpWithAnExample) {
  for (const char* name : {"train", "resume", "eval", "sample", "export", "plan", "launch", "data",
                           "inspect", "bench"}) {
    Invocation invocation({name, "--help"});
    for (const auto add : {add_train, add_resume, add_eval, add_sample, add_export, add_plan,
                           add_launch, add_data, add_inspect, add_bench}) {
      add(invocation);
    }
    testing::internal::CaptureStdout();
    EXPECT_EQ(invocation.run(), 0);
    const std::string help = testing::internal::GetCapturedStdout();
    EXPECT_THAT(help, HasSubstr("Examples:\n  outstep " + std::string(name)));
  }
}

}  // namespace
}  // namespace outstep::apps
