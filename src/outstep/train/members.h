#pragma once

#include <string>
#include <vector>

#include "outstep/comm/mesh.h"
#include "outstep/io/settings.h"

namespace outstep::train {

// Which of a population's members a run has. A member's number is its place among mesh.members as
// the recipe has them, and stays its own when others are lost: its seeds, data order and files go
// by it. Its place in the mesh is its index among those that the run has.
struct Members {
  std::vector<int> ids = {0};      // their numbers, in order
  std::vector<int> lost = {};      // the others', in order
  bool continues_on_loss = false;  // when a rank is lost: its member is, and the others go on

  // on_loss and lost of [ensemble]. num_members: as mesh.members says. Throws ConfigError.
  static Members read(io::Section section, int num_members);

  // Those that have one of these ranks, in order.
  std::vector<int> of_ranks(const comm::Mesh& mesh, const std::vector<int>& ranks) const;
  Members without(const std::vector<int>& others) const;
};

// "member 1", "members 0, 2"
std::string describe_members(const std::vector<int>& ids);

}  // namespace outstep::train
