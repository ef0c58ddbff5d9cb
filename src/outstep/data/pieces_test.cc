#include "outstep/data/pieces.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace outstep::data {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> all;
  PieceCutter cutter(text);
  for (auto piece = cutter.next(); !piece.empty(); piece = cutter.next()) all.emplace_back(piece);
  return all;
}

TEST(Pieces, WordsNumbersAndOthersWithASpaceBeforeThem) {
  EXPECT_THAT(pieces("Hello, world! 42"), ElementsAre("Hello", ",", " world", "!", " 42"));
  EXPECT_THAT(pieces("a1b2"), ElementsAre("a", "1", "b", "2"));
  EXPECT_THAT(pieces("x+=-y //z"), ElementsAre("x", "+=-", "y", " //", "z"));
  EXPECT_THAT(pieces(""), ElementsAre());
}

TEST(Pieces, Contractions) {
  EXPECT_THAT(pieces("I'll can't we've he's I'm they're she'd"),
              ElementsAre("I", "'ll", " can", "'t", " we", "'ve", " he", "'s", " I", "'m", " they",
                          "'re", " she", "'d"));
  EXPECT_THAT(pieces("'saves"), ElementsAre("'s", "aves"));
  EXPECT_THAT(pieces(" 'tis"), ElementsAre(" '", "tis"));
  EXPECT_THAT(pieces("o'clock 'LL 'r 'l '"),
              ElementsAre("o", "'", "clock", " '", "LL", " '", "r", " '", "l", " '"));
  EXPECT_THAT(pieces("!'s"), ElementsAre("!'", "s"));
  EXPECT_THAT(pieces("''s"), ElementsAre("''", "s"));
}

TEST(Pieces, WhiteSpace) {
  EXPECT_THAT(pieces("a  b"), ElementsAre("a", " ", " b"));
  EXPECT_THAT(pieces("a \n b"), ElementsAre("a", " \n", " b"));
  EXPECT_THAT(pieces("a\nb"), ElementsAre("a", "\n", "b"));
  EXPECT_THAT(pieces("a\n\nb"), ElementsAre("a", "\n", "\n", "b"));
  EXPECT_THAT(pieces("a  \n"), ElementsAre("a", "  \n"));
  EXPECT_THAT(pieces(" "), ElementsAre(" "));
  EXPECT_THAT(pieces("\t a"), ElementsAre("\t", " a"));
  EXPECT_THAT(pieces("a\u00a0\u3000b"), ElementsAre("a", "\u00a0", "\u3000", "b"));
  EXPECT_THAT(pieces("\u200b\x1c"), ElementsAre("\u200b\x1c"));  // no white space to Unicode
}

TEST(Pieces, UnicodesLettersAndNumbers) {
  EXPECT_THAT(pieces("naïve café"), ElementsAre("naïve", " café"));
  EXPECT_THAT(pieces("日本語 ½Ⅷ²"), ElementsAre("日本語", " ½Ⅷ²"));
  EXPECT_THAT(pieces("ǅʰא٣"), ElementsAre("ǅʰא", "٣"));
  EXPECT_THAT(pieces("नि"), ElementsAre("न", "ि"));  // a vowel sign is a mark, no letter
  EXPECT_THAT(pieces("“so”—😀"), ElementsAre("“", "so", "”—😀"));
}

TEST(Pieces, BytesThatAreNoUtf8AreCharactersOfNoKind) {
  EXPECT_THAT(pieces("a\xff\xfe b"), ElementsAre("a", "\xff\xfe", " b"));
  EXPECT_THAT(pieces("\xe2\x82"), ElementsAre("\xe2\x82"));  // cut off
  EXPECT_THAT(pieces("\xc1\xa1 \xed\xa0\x80"),
              ElementsAre("\xc1\xa1", " \xed\xa0\x80"));  // overlong, a surrogate
  EXPECT_THAT(pieces("é\xc3"), ElementsAre("é", "\xc3"));
}

}  // namespace
}  // namespace outstep::data
