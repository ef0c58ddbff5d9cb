#include "outstep/apps/table.h"

#include <gtest/gtest.h>

namespace outstep::apps {
namespace {

TEST(Table, AlignsNumbersRightAndWordsLeft) {
  const Table table{
      .header = {"part", "median", "note"},
      .rows = {{"forward", "12.3 ms", "a"}, {"sync", "9 ms", "größer"}, {"x", "", ""}}};
  EXPECT_EQ(table.text(),
            "part      median  note\n"
            "forward  12.3 ms  a\n"
            "sync        9 ms  größer\n"
            "x\n");
  EXPECT_EQ((Table{.header = {}, .rows = {{"é", "1"}, {"ab", "22"}}}.text()), "é    1\nab  22\n");
  EXPECT_EQ(Table{}.text(), "");
}

}  // namespace
}  // namespace outstep::apps
