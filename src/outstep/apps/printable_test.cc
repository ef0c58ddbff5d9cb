#include "outstep/apps/printable.h"

#include <gtest/gtest.h>

namespace outstep::apps {
namespace {

TEST(Printable, LeavesTextAlone) {
  for (const char* text : {"", "ROMEO:\n\tO, she", "größer € 😀", "a\xEF\xBF\xBD"}) {
    EXPECT_EQ(printable(text), text);
  }
}

TEST(Printable, ReplacesWhatIsNotText) {
  EXPECT_EQ(printable("a\xFFz"), "a\uFFFDz");
  EXPECT_EQ(printable("\xC3"), "\uFFFD");
  EXPECT_EQ(printable("\xE2\x82z"), "\uFFFD\uFFFDz");
  EXPECT_EQ(printable("\xC0\xAF"), "\uFFFD\uFFFD") << "overlong";
  EXPECT_EQ(printable("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD") << "a surrogate";
  EXPECT_EQ(printable("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD") << "beyond Unicode";
}

TEST(Printable, LetsNoEscapeSequenceThrough) {
  EXPECT_EQ(printable("\x1b[31mred\r\x7f"), "\uFFFD[31mred\uFFFD\uFFFD");
  EXPECT_EQ(printable("\xC2\x9B"
                      "31m"),
            "\uFFFD31m")
      << "CSI as one character";
}

TEST(WholeCharacters, HoldsBackTheBeginningOfOne) {
  EXPECT_EQ(whole_characters("abc"), 3u);
  EXPECT_EQ(whole_characters("a\xC3"), 1u);
  EXPECT_EQ(whole_characters("aä"), 3u);
  EXPECT_EQ(whole_characters("\xE2\x82"), 0u);
  EXPECT_EQ(whole_characters("€"), 3u);
  EXPECT_EQ(whole_characters("\xF0\x9F\x98"), 0u);
  EXPECT_EQ(whole_characters("x\x80\x80\x80\x80"), 5u) << "no UTF-8 at all is not held back";
  EXPECT_EQ(whole_characters(""), 0u);
}

}  // namespace
}  // namespace outstep::apps
