#pragma once

#include <string>
#include <vector>

// Ranks form a mesh with three axes: member × replica × stage, the stage varying fastest (it talks
// most, so its ranks should be near).

namespace outstep::comm {

struct Mesh {
  int members = 1;
  int replicas = 1;
  int stages = 1;

  struct Place {
    int member = 0;
    int replica = 0;
    int stage = 0;
  };

  int size() const { return members * replicas * stages; }
  int rank_of(Place place) const {
    return (place.member * replicas + place.replica) * stages + place.stage;
  }
  Place place_of(int rank) const {
    return {rank / (replicas * stages), rank / stages % replicas, rank % stages};
  }
  // World ranks that differ from this rank's place on one axis only, in order, this rank among
  // them.
  std::vector<int> replica_peers(int rank) const;
  std::vector<int> stage_peers(int rank) const;
  std::vector<int> member_peers(int rank) const;
  // All ranks of this rank's member: its replicas and their stages.
  std::vector<int> ranks_of_member(int rank) const;

  // "2 replicas × 1 stage × 1 member"
  std::string describe() const;
};

}  // namespace outstep::comm
