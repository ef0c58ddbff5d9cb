#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "outstep/comm/group.h"
#include "outstep/io/settings.h"

// Soups: one model that is the mean of several (Wortsman et al., arXiv 2203.05482).

namespace outstep::ensemble {

struct SoupOptions {
  // Where batch norm's running statistics of a soup come from. Those of its ingredients are of
  // other weights; recomputed, they are the means over batches of training data, at the soup's own.
  enum class Statistics { recompute, average };
  Statistics statistics = Statistics::recompute;
  int64_t batches = 50;  // micro-batches to recompute them from

  // batch_norm ("recompute" or "average") and batch_norm_batches of [ensemble].
  static SoupOptions read(io::Section& section);
};

// values, of which each member holds its own, becomes their mean over the members listed, on every
// member. Collective over the group; sums in rank order.
void make_soup(comm::Group& members, const at::Tensor& values, std::span<const int> ingredients);

// The greedy recipe: from the best member on, in the order of their scores, one more is taken if
// that makes the soup's score rise. score_of is asked for soups of two or more. Returns the
// ingredients, best first. Where all ranks have the same scores, they get the same soup.
struct GreedySoup {
  std::vector<int> ingredients;
  double score = 0;
};
GreedySoup greedy_soup(std::span<const double> scores,
                       const std::function<double(std::span<const int> ingredients)>& score_of);

}  // namespace outstep::ensemble
