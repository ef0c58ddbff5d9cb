#include "outstep/io/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "outstep/base/errors.h"

namespace outstep::io {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string complaint(const std::function<void()>& action) {
  try {
    action();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

constexpr const char* kRecipe = R"([engine]
name = "backprop"
micro_batch = 16
[optimizer]
lr = 1
betas = [0.9, 0.95]
nesterov = true
)";

TEST(Settings, ReadsTypedValues) {
  Settings settings = Settings::from_text(kRecipe, "my.toml");
  Section engine = settings.section("engine");
  EXPECT_EQ(engine.text("name", "none"), "backprop");
  EXPECT_EQ(engine.integer("micro_batch", 1), 16);
  EXPECT_EQ(engine.integer("missing", 3), 3);
  EXPECT_TRUE(engine.has("micro_batch"));
  EXPECT_FALSE(engine.has("missing"));
  EXPECT_EQ(engine.origin("micro_batch"), "my.toml:3:1");
  EXPECT_EQ(engine.origin("missing"), "default");
  Section optimizer = settings.section("optimizer");
  EXPECT_EQ(optimizer.number("lr", 0), 1.0) << "a whole number is a number";
  EXPECT_EQ(optimizer.numbers("betas", {}), (std::vector<double>{0.9, 0.95}));
  EXPECT_TRUE(optimizer.flag("nesterov", false));
  settings.require_all_used();
}

TEST(Settings, OverridesWinAndSayWhereTheyComeFrom) {
  Settings settings = Settings::from_text(
      kRecipe, "my.toml",
      {"engine.micro_batch=8", "engine.name=petra", "data.path=/a b/c", "optimizer.lr=1e-3"});
  EXPECT_EQ(settings.section("engine").integer("micro_batch", 1), 8);
  EXPECT_EQ(settings.section("engine").text("name", ""), "petra") << "a bare word is text";
  EXPECT_EQ(settings.section("data").text("path", ""), "/a b/c");
  EXPECT_EQ(settings.section("optimizer").number("lr", 0), 1e-3);
  EXPECT_EQ(settings.section("engine").origin("micro_batch"), "--engine.micro_batch");
  for (const char* bad : {"micro_batch=8", "engine.micro_batch", ".x=1", "engine.=1", ""}) {
    EXPECT_THAT(complaint([&] { Settings::from_text("", "t", {bad}); }),
                HasSubstr("section.key=value"))
        << bad;
  }
}

TEST(Settings, AnUnknownKeyIsAnErrorWithItsPlaceAndTheNearestSpelling) {
  const auto read = [](const std::string& text) {
    return complaint([&] {
      Settings settings = Settings::from_text(text, "recipes/my.toml");
      settings.section("engine").integer("micro_batch", 1);
      settings.section("sync").text("name", "none");
      settings.require_all_used();
    });
  };
  EXPECT_EQ(
      read("[engine]\n\n  micro_bach = 3\n"),
      "recipes/my.toml:3:3: unknown key \"micro_bach\" in [engine]; did you mean \"micro_batch\"?");
  EXPECT_EQ(read("[engine]\nfoo = 3\n"),
            "recipes/my.toml:2:1: unknown key \"foo\" in [engine]; known are: micro_batch");
  EXPECT_EQ(read("[snyc]\nname = \"ddp\"\n"),
            "recipes/my.toml:1:1: unknown section [snyc]; did you mean [sync]?");
  EXPECT_EQ(read("[snyc]\n"), "recipes/my.toml:1:1: unknown section [snyc]; did you mean [sync]?")
      << "even without keys";
  EXPECT_EQ(read("[sync]\nzoo = 1\nant = 2\n[engine]\nbee = 3\n"),
            "recipes/my.toml:2:1: unknown key \"zoo\" in [sync]; known are: name")
      << "the first as the file has them";
  EXPECT_EQ(read("[engine]\nmicro_batch.x = 3\n"),
            "recipes/my.toml:2:1: engine.micro_batch must be a whole number, not a table");
  EXPECT_EQ(read("[engine]\nmicro_batch = 3\n"), "accepted");
}

// Another choice may know it.
TEST(Settings, AKeyThatIsNoMisspellingIsUnknownToWhatWasChosen) {
  const auto read = [](const std::string& text, bool overrides_alone = false) {
    return complaint([&] {
      Settings settings = Settings::from_text("[sync]\nname = 'ddp'", "r.toml", {text});
      settings.section("sync").text("name", "none");
      overrides_alone ? settings.require_overrides_used() : settings.require_all_used();
    });
  };
  const char* expected =
      "--sync.counts: unknown key \"counts\" in [sync] with name = \"ddp\"; known are: name";
  EXPECT_EQ(read("sync.counts=fixed"), expected);
  EXPECT_EQ(read("sync.counts=fixed", true), expected);
  EXPECT_EQ(read("sync.nmae=none"),
            "--sync.nmae: unknown key \"nmae\" in [sync]; did you mean \"name\"?");
}

TEST(Settings, AnUnknownKeyOfAnOverrideIsNamedAsItWasTyped) {
  const auto read = [](const std::string& text) {
    return complaint([&] {
      Settings settings = Settings::from_text("", "r.toml", {text});
      settings.section("sync").text("name", "none");
      settings.require_all_used();
    });
  };
  EXPECT_EQ(read("sync.nmae=ddp"),
            "--sync.nmae: unknown key \"nmae\" in [sync]; did you mean \"name\"?");
  EXPECT_EQ(read("snyc.name=ddp"), "--snyc.name: unknown section [snyc]; did you mean [sync]?");
}

TEST(Settings, AnotherChoiceOnTheCommandLineLeavesTheFilesKeysAlone) {
  const auto read = [](const std::vector<std::string>& overrides) {
    return complaint([&] {
      Settings settings =
          Settings::from_text("[sync]\nname = \"acco\"\ncounts = \"fixed\"\n", "r.toml", overrides);
      settings.section("sync").text("name", "none");
      settings.require_all_used();
      EXPECT_THAT(settings.resolved(), Not(HasSubstr("counts")));
    });
  };
  EXPECT_THAT(read({}), HasSubstr("unknown key \"counts\""));
  EXPECT_EQ(read({"sync.name=ddp"}), "accepted");
  EXPECT_THAT(read({"sync.name=acco"}), HasSubstr("unknown key \"counts\"")) << "the same choice";
  EXPECT_THAT(read({"sync.name=acco", "sync.name=ddp"}), HasSubstr("accepted"));
  EXPECT_THAT(read({"sync.name=ddp", "sync.cuonts=fixed"}), HasSubstr("unknown key \"cuonts\""));
}

TEST(Settings, AnOverrideOfATextMayLookLikeAnythingElse) {
  for (const char* typed : {"7", "true", "2024-01-01", "[1, 2]", "1e3", "0x10", "", "a\nb = 1"}) {
    Settings settings = Settings::from_text("", "t", {std::string("data.path=") + typed});
    EXPECT_EQ(settings.section("data").text("path", "none"), typed);
    Settings again = Settings::from_text(settings.resolved(), "r");
    EXPECT_EQ(again.section("data").text("path", "none"), typed);
  }
  Settings quoted = Settings::from_text("", "t", {"data.path=\"7\""});
  EXPECT_EQ(quoted.section("data").text("path", ""), "7");
  EXPECT_THAT(complaint([] { Settings::from_text("", "t", {"data.path=caf\xE9"}); }),
              HasSubstr("--data.path:"))
      << "what no recipe can hold is refused before the run";
  EXPECT_EQ(complaint([] {
              Settings settings = Settings::from_text("[data]\npath = 7", "r.toml");
              settings.section("data").text("path", "");
            }),
            "r.toml:2:1: data.path must be text, not 7")
      << "in a file, text is quoted";
}

TEST(Settings, RefusesWrongTypesAndRanges) {
  const auto get = [](const std::string& value, auto getter) {
    return complaint([&] {
      Settings settings = Settings::from_text("[s]\nk = " + value, "r.toml");
      Section section = settings.section("s");
      getter(section);
    });
  };
  const auto integer = [](Section& s) { s.integer("k", 1, {.min = 1, .max = 9}); };
  EXPECT_EQ(get("\"a\"", integer), "r.toml:2:1: s.k must be a whole number, not \"a\"");
  EXPECT_EQ(get("1.5", integer), "r.toml:2:1: s.k must be a whole number, not 1.5");
  EXPECT_EQ(get("0", integer), "r.toml:2:1: s.k is 0, it must be at least 1 and at most 9");
  EXPECT_EQ(get("9", integer), "accepted");
  const auto number = [](Section& s) { s.number("k", 1, {.min = 0, .excludes_min = true}); };
  EXPECT_EQ(get("0", number), "r.toml:2:1: s.k is 0, it must be more than 0");
  EXPECT_THAT(get("nan", number), HasSubstr("not a number (nan)"));
  const auto choice = [](Section& s) { s.text("k", "ddp", {.choices = {"ddp", "zero1"}}); };
  EXPECT_EQ(get("\"zero\"", choice),
            "r.toml:2:1: s.k is \"zero\", it must be one of: ddp, zero1; did you mean \"zero1\"?");
  EXPECT_THAT(get("[1, \"a\"]", [](Section& s) { s.integers("k", {}); }),
              HasSubstr("must be a list of whole numbers, not [1, \"a\"]"));
  EXPECT_THAT(get("3", [](Section& s) { s.flag("k", false); }),
              HasSubstr("must be true or false, not 3"));
}

TEST(Settings, RefusesIllFormedFilesWithTheirPlace) {
  EXPECT_THAT(complaint([] { Settings::from_text("[engine\nname = 1", "r.toml"); }),
              HasSubstr("r.toml:1:"));
  EXPECT_THAT(complaint([] { Settings::from_text("steps = 3", "r.toml"); }),
              HasSubstr("outside any section"));
  EXPECT_THAT(complaint([] { Settings::from_file("/nowhere/r.toml"); }),
              HasSubstr("/nowhere/r.toml"));
}

class SettingsFiles : public testing::Test {
 protected:
  SettingsFiles()
      : folder_(std::filesystem::path(testing::TempDir()) /
                fmt::format("outstep_settings_{}", getpid())) {
    std::filesystem::create_directories(folder_ / "common");
  }
  ~SettingsFiles() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }
  std::filesystem::path folder_;
};

TEST_F(SettingsFiles, ABaseIsReadFirstAndRelativeToTheFile) {
  write("common/base.toml", "[a]\nx = 1\ny = 2\n");
  write("child.toml", "base = \"common/base.toml\"\n[a]\ny = 3\n");
  Settings settings = Settings::from_file(folder_ / "child.toml");
  EXPECT_EQ(settings.section("a").integer("x", 0), 1);
  EXPECT_EQ(settings.section("a").integer("y", 0), 3);
  EXPECT_EQ(settings.section("a").origin("x"), (folder_ / "common/base.toml").string() + ":2:1");
}

TEST_F(SettingsFiles, AFileOfAnyNameResolvesToARecipe) {
  const std::string name = "caf\xE9 caf\xC3\xA9\n\x7F.toml";
  write(name, "[a]\nx = 1\n");
  Settings settings = Settings::from_file(folder_ / name);
  settings.section("a").integer("x", 0);
  EXPECT_EQ(settings.resolved(),
            "[a]\nx = 1  # " + (folder_ / "caf? caf\xC3\xA9??.toml").string() + ":2:1\n");
  Settings again = Settings::from_text(settings.resolved(), "r");
  EXPECT_EQ(again.section("a").integer("x", 0), 1);
}

TEST_F(SettingsFiles, RefusesABaseThatIsMissingOrLoops) {
  write("missing.toml", "base = \"nothing.toml\"\n");
  EXPECT_THAT(complaint([&] { Settings::from_file(folder_ / "missing.toml"); }),
              HasSubstr("\"nothing.toml\" does not exist"));
  write("loop.toml", "base = \"loop.toml\"\n");
  EXPECT_THAT(complaint([&] { Settings::from_file(folder_ / "loop.toml"); }),
              HasSubstr("leads back to itself"));
  write("common/there.toml", "base = \"../common/back.toml\"\n");
  write("common/back.toml", "base = \"../common/there.toml\"\n");
  EXPECT_THAT(complaint([&] { Settings::from_file(folder_ / "common/there.toml"); }),
              HasSubstr("its base leads back to itself: there.toml -> back.toml -> there.toml"));
  write("folder.toml", "base = \"common\"\n");
  EXPECT_THAT(complaint([&] { Settings::from_file(folder_ / "folder.toml"); }),
              HasSubstr("a folder, not a file"));
  write("number.toml", "base = 3\n");
  EXPECT_THAT(complaint([&] { Settings::from_file(folder_ / "number.toml"); }),
              HasSubstr("number.toml:1:8: base must be text, the path of another recipe, not 3"));
}

TEST(Settings, ResolvedReadsBackAsTheSameValues) {
  const auto ask = [](Settings& settings) {
    Section s = settings.section("s");
    s.number("tenth", 0.1);
    s.number("third", 1.0 / 3);
    s.number("large", 1e300);
    s.number("whole", 3);
    s.number("endless", std::numeric_limits<double>::infinity());
    s.text("text", "a \"quoted\" \\ line\nand ünïcode");
    s.integers("integers", {1, -2});
    s.numbers("numbers", {0.5, 2});
    s.texts("texts", {"a", "b#c"});
    s.flag("flag", true);
    settings.section("t").integer("n", std::numeric_limits<int64_t>::min());
    return settings.resolved();
  };
  Settings first = Settings::from_text("", "a");
  const std::string resolved = ask(first);
  EXPECT_THAT(resolved, HasSubstr("tenth = 0.1  # default"));
  Settings second = Settings::from_text(resolved, "b");
  const std::string again = ask(second);
  const auto values_only = [](const std::string& text) {
    std::string out;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
      out += line.substr(0, line.rfind("  # ")) + "\n";
    return out;
  };
  EXPECT_EQ(values_only(resolved), values_only(again));
  EXPECT_THAT(again, Not(HasSubstr("# default"))) << "every value must have come from the file";
}

}  // namespace
}  // namespace outstep::io
