#include "outstep/train/members.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "outstep/base/errors.h"

namespace outstep::train {

Members Members::read(io::Section section, int num_members) {
  const bool continues_on_loss =
      section.text("on_loss", "fail", {.choices = {"fail", "continue"}}) == "continue";
  const auto named = section.integers("lost", {}, {.min = 0, .max = 1 << 20});
  std::vector<int> lost(named.begin(), named.end());
  std::ranges::sort(lost);
  const auto refuse = [&](const std::string& reason) {
    throw ConfigError("{}: ensemble.lost = [{}]: {}", section.origin("lost"),
                      fmt::join(named, ", "), reason);
  };
  if (!lost.empty() && num_members == 1) {
    refuse("mesh.members is 1, and only a population goes on without a member");
  }
  if (!lost.empty() && lost.back() >= num_members) {
    refuse(fmt::format("the {} members of mesh.members are numbered from 0", num_members));
  }
  if (const auto twice = std::ranges::adjacent_find(lost); twice != lost.end()) {
    refuse(fmt::format("member {} is named twice", *twice));
  }
  if (std::ssize(lost) == num_members) refuse("nobody is left to train");
  Members all{.ids = std::vector<int>(static_cast<size_t>(num_members)),
              .continues_on_loss = continues_on_loss};
  std::iota(all.ids.begin(), all.ids.end(), 0);
  return all.without(lost);
}

std::vector<int> Members::of_ranks(const comm::Mesh& mesh, const std::vector<int>& ranks) const {
  std::vector<int> members;
  for (const int rank : ranks) {
    members.push_back(ids[static_cast<size_t>(mesh.place_of(rank).member)]);
  }
  std::ranges::sort(members);
  const auto repeated = std::ranges::unique(members);
  members.erase(repeated.begin(), repeated.end());
  return members;
}

Members Members::without(const std::vector<int>& others) const {
  Members left = *this;
  std::erase_if(left.ids, [&](int id) { return std::ranges::count(others, id) > 0; });
  left.lost.insert(left.lost.end(), others.begin(), others.end());
  std::ranges::sort(left.lost);
  return left;
}

std::string describe_members(const std::vector<int>& ids) {
  return fmt::format("{} {}", ids.size() == 1 ? "member" : "members", fmt::join(ids, ", "));
}

}  // namespace outstep::train
