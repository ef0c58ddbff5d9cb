#include "outstep/data/catalogue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "outstep/base/errors.h"
#include "outstep/data/testing.h"

namespace outstep::data {
namespace {

bool is_hash(const std::string& text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

TEST(Catalogue, EveryEntryIsComplete) {
  std::set<std::string> names;
  for (const CatalogueEntry& entry : catalogue()) {
    SCOPED_TRACE(entry.name);
    EXPECT_TRUE(names.insert(entry.name).second);
    for (const auto* text : {&entry.folder, &entry.what, &entry.licence, &entry.source})
      EXPECT_FALSE(text->empty());
    ASSERT_FALSE(entry.files.empty());
    EXPECT_LE(entry.archives.size(), 1u);
    for (const CatalogueArchive& archive : entry.archives) {
      EXPECT_TRUE(is_hash(archive.sha256));
      EXPECT_FALSE(archive.addresses.empty());
    }
    for (const CatalogueFile& file : entry.files) {
      SCOPED_TRACE(file.name);
      EXPECT_GT(file.num_bytes, 0);
      EXPECT_EQ(file.member.empty(), entry.archives.empty());
      EXPECT_TRUE(is_hash(file.sha256) || !file.member.empty()) << "an own address needs a hash";
      for (const std::string& address : file.addresses)
        EXPECT_THAT(address, ::testing::HasSubstr("://"));
    }
  }
}

TEST(Catalogue, FindsNamesAsTheyAreTyped) {
  EXPECT_EQ(find_in_catalogue("cifar10").folder, "cifar-10-batches-bin");
  EXPECT_EQ(find_in_catalogue("CIFAR-10").name, "cifar10");
  EXPECT_EQ(find_in_catalogue("fashion-mnist").name, "fashion_mnist");
  EXPECT_THAT(testing::message_of<ConfigError>([] { find_in_catalogue("cifar11"); }),
              ::testing::StartsWith(
                  "there is no data \"cifar11\" to get; did you mean \"cifar10\"?\n  There are: "));
}

TEST(Catalogue, KnowsWhatADownloadTakes) {
  EXPECT_EQ(find_in_catalogue("cifar10").download_bytes(), 170'052'171);
  EXPECT_EQ(find_in_catalogue("gpt2-bpe").download_bytes(), 1'498'619);
  EXPECT_TRUE(find_in_catalogue("mnist").has_address());
  EXPECT_FALSE(find_in_catalogue("english-classics").has_address());
}

}  // namespace
}  // namespace outstep::data
