#include "outstep/comm/agreement.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"

namespace outstep::comm {

void require_agreement(Group& group, const std::string& name, uint64_t hash) {
  const at::Tensor hashes = at::empty({group.size()}, at::kLong);
  const at::Tensor own = at::full({1}, static_cast<int64_t>(hash), at::kLong);
  group.all_gather(own, hashes, {.total = group.size(), .count = group.size()},
                   {.what = "launch check"});

  const int64_t* by_rank = hashes.const_data_ptr<int64_t>();
  std::map<int64_t, int> counts;
  for (int rank = 0; rank < group.size(); ++rank) ++counts[by_rank[rank]];
  if (counts.size() == 1) return;

  // What most ranks have counts as right; rank 0's where there is no majority.
  const auto most =
      std::max_element(counts.begin(), counts.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  const int64_t right = counts[by_rank[0]] == most->second ? by_rank[0] : most->first;
  std::vector<std::string> odd_ones;
  std::string example;
  for (int rank = 0; rank < group.size(); ++rank) {
    if (by_rank[rank] != right) {
      odd_ones.push_back(group.describe(rank));
    } else if (example.empty()) {
      example = group.describe(rank);
    }
  }
  throw ConfigError(
      "ranks differ in their {}: {} {} from {}; give all ranks the same, and the same version of "
      "outstep",
      name, join(odd_ones, ", "), odd_ones.size() == 1 ? "differs" : "differ", example);
}

}  // namespace outstep::comm
