#include "outstep/comm/mesh.h"

#include <fmt/format.h>

namespace outstep::comm {
namespace {

std::string counted(int count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace

std::vector<int> Mesh::replica_peers(int rank) const {
  std::vector<int> peers;
  Place place = place_of(rank);
  for (place.replica = 0; place.replica < replicas; ++place.replica)
    peers.push_back(rank_of(place));
  return peers;
}

std::vector<int> Mesh::stage_peers(int rank) const {
  std::vector<int> peers;
  Place place = place_of(rank);
  for (place.stage = 0; place.stage < stages; ++place.stage) peers.push_back(rank_of(place));
  return peers;
}

std::vector<int> Mesh::member_peers(int rank) const {
  std::vector<int> peers;
  Place place = place_of(rank);
  for (place.member = 0; place.member < members; ++place.member) peers.push_back(rank_of(place));
  return peers;
}

std::vector<int> Mesh::ranks_of_member(int rank) const {
  std::vector<int> ranks;
  for (int r = 0; r < size(); ++r) {
    if (place_of(r).member == place_of(rank).member) ranks.push_back(r);
  }
  return ranks;
}

std::string Mesh::describe() const {
  return fmt::format("{} × {} × {}", counted(replicas, "replica"), counted(stages, "stage"),
                     counted(members, "member"));
}

}  // namespace outstep::comm
