#include "outstep/base/text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "outstep/base/errors.h"

namespace outstep {
namespace {

TEST(Text, FindsTheNearestSpelling) {
  const std::vector<std::string> words = {"micro_batch", "precision", "sync", "seed"};
  EXPECT_EQ(nearest_spelling("micro_bach", words), "micro_batch");
  EXPECT_EQ(nearest_spelling("presicion", words), "precision");
  EXPECT_EQ(nearest_spelling("snyc", words), "sync");
  EXPECT_EQ(nearest_spelling("checkpoint", words), "") << "nothing is near";
  EXPECT_EQ(nearest_spelling("", words), "");
}

TEST(Text, WritesNumbersForPeople) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(3323392), "3,323,392");
  EXPECT_EQ(with_commas(-1000), "-1,000");
  EXPECT_EQ(with_commas(-100), "-100");
  EXPECT_EQ(human_bytes(999), "999 bytes");
  EXPECT_EQ(human_bytes(13'293'568), "13.3 MB");
  EXPECT_EQ(human_bytes(190'000'000), "190 MB");
  EXPECT_EQ(human_bytes(999'999), "1.0 MB");
  EXPECT_EQ(human_seconds(0.934), "0.93 s");
  EXPECT_EQ(human_seconds(0.0042), "4.2 ms");
  EXPECT_EQ(human_seconds(12.34), "12.3 s");
  EXPECT_EQ(human_seconds(153), "2 min 33 s");
  EXPECT_EQ(human_seconds(59.7), "1 min 00 s");
  EXPECT_EQ(human_seconds(3840), "1 h 04 min");
  EXPECT_EQ(human_seconds(0), "0.00 s");
  EXPECT_EQ(human_seconds(std::numeric_limits<double>::infinity()), "inf s");
  EXPECT_EQ(with_commas(std::numeric_limits<int64_t>::min()), "-9,223,372,036,854,775,808");
}

TEST(Text, ReadsLinkRates) {
  EXPECT_EQ(parse_bits_per_second("200mbit"), 200e6);
  EXPECT_EQ(parse_bits_per_second("10Gbit/s"), 10e9);
  EXPECT_EQ(parse_bits_per_second("1.5MB/s"), 12e6);
  for (const char* bad : {"", "fast", "-3mbit", "200", "200 parsecs", "infmbit", "nanmbit"}) {
    EXPECT_THROW(parse_bits_per_second(bad), ConfigError) << bad;
  }
}

TEST(Text, KnowsTheCharactersOfUtf8) {
  const auto lengths = [](std::string_view text) {
    std::vector<size_t> found;
    for (size_t i = 0; i < text.size(); i += std::max<size_t>(found.back(), 1)) {
      found.push_back(character_length(text, i));
    }
    return found;
  };
  EXPECT_EQ(lengths("aö€😀"), (std::vector<size_t>{1, 2, 3, 4}));
  EXPECT_EQ(lengths("\xFFz\xC3"), (std::vector<size_t>{0, 1, 0}));
  EXPECT_EQ(lengths("\xC0\xAF"), (std::vector<size_t>{0, 0})) << "overlong";
  EXPECT_EQ(lengths("\xED\xA0\x80"), (std::vector<size_t>{0, 0, 0})) << "a surrogate";
  EXPECT_EQ(lengths("\xF4\x90\x80\x80"), (std::vector<size_t>{0, 0, 0, 0})) << "beyond Unicode";
}

TEST(Text, QuotesWhatComesFromOutside) {
  EXPECT_EQ(shown("naïve"), "\"naïve\"");
  EXPECT_EQ(shown("\x1b[31m\n\xff"), "\"\\u001b[31m\\u000a\\xff\"");
  EXPECT_EQ(shown(std::string(80, 'a')), '"' + std::string(80, 'a') + '"');
  EXPECT_EQ(shown(std::string(79, 'a') + "€"), '"' + std::string(79, 'a') + "…\"");
}

TEST(Text, Joins) {
  EXPECT_EQ(join({}, ", "), "");
  EXPECT_EQ(join({"a", "b"}, ", "), "a, b");
}

}  // namespace
}  // namespace outstep
