#include "outstep/comm/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "outstep/comm/shards.h"

namespace outstep::comm {
namespace {

using ::testing::ElementsAre;

TEST(Mesh, PlacesAndRanksAreInverse) {
  const Mesh mesh{.members = 2, .replicas = 3, .stages = 4};
  EXPECT_EQ(mesh.size(), 24);
  for (int rank = 0; rank < mesh.size(); ++rank) EXPECT_EQ(mesh.rank_of(mesh.place_of(rank)), rank);
}

TEST(Mesh, PeersDifferOnOneAxisOnly) {
  const Mesh mesh{.members = 2, .replicas = 3, .stages = 4};
  const int rank = mesh.rank_of({.member = 1, .replica = 2, .stage = 3});
  EXPECT_EQ(rank, 23);
  EXPECT_THAT(mesh.stage_peers(rank), ElementsAre(20, 21, 22, 23));
  EXPECT_THAT(mesh.replica_peers(rank), ElementsAre(15, 19, 23));
  EXPECT_THAT(mesh.member_peers(rank), ElementsAre(11, 23));
  EXPECT_THAT(mesh.ranks_of_member(13),
              ElementsAre(12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23));
}

TEST(Mesh, DescribesItself) {
  EXPECT_EQ((Mesh{.replicas = 2}.describe()), "2 replicas × 1 stage × 1 member");
}

TEST(Shards, CoverTheVectorOnGrainsInOrder) {
  for (const int64_t total : {0, 1, 31, 32, 33, 1000}) {
    for (int count = 1; count <= 8; ++count) {
      const Shards shards{.total = total, .count = count, .grain = 32};
      EXPECT_EQ(shards.begin(0), 0);
      EXPECT_EQ(shards.end(count - 1), total);
      for (int rank = 0; rank + 1 < count; ++rank) {
        EXPECT_EQ(shards.end(rank), shards.begin(rank + 1));
        EXPECT_TRUE(shards.end(rank) % 32 == 0 || shards.end(rank) == total);
      }
    }
  }
}

}  // namespace
}  // namespace outstep::comm
