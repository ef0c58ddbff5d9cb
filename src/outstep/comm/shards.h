#pragma once

#include <algorithm>
#include <cstdint>

// How a flat vector is cut over the ranks of a group: rank r owns [begin(r), end(r)). Cuts fall on
// multiples of the grain (the last shards may be short or empty), so that what is computed grain by
// grain has the same bits for any number of ranks.

namespace outstep::comm {

struct Shards {
  int64_t total = 0;
  int count = 1;
  int64_t grain = 1;

  int64_t length() const {  // of a full shard
    const int64_t per_rank = (total + count - 1) / count;
    return (per_rank + grain - 1) / grain * grain;
  }
  int64_t begin(int rank) const { return std::min(rank * length(), total); }
  int64_t end(int rank) const { return std::min((rank + 1) * length(), total); }
  int64_t size(int rank) const { return end(rank) - begin(rank); }
};

}  // namespace outstep::comm
