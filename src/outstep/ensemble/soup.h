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
  // Models to evaluate on the straight line between each two members; 0: none.
  int64_t barrier_points = 0;

  // batch_norm ("recompute" or "average"), batch_norm_batches and barrier_points of [ensemble].
  static SoupOptions read(io::Section& section);
};

// values, of which each member holds its own, becomes on every member their mean weighted by parts,
// a whole number for each member: {0, 1, 1} is the mean of the last two of three, {3, 1} a quarter
// of the way from one member to the other. Collective over the group; sums in rank order.
void make_soup(comm::Group& members, const at::Tensor& values, std::span<const int64_t> parts);

// The greedy recipe: from the best member on, in the order of their scores, one more is taken if
// that makes the soup's score rise. score_of is asked for soups of two or more. A score that is no
// number, of a model that has diverged, is the worst. Returns the ingredients, best first. Where
// all ranks have the same scores, they get the same soup.
struct GreedySoup {
  std::vector<int> ingredients;
  double score = 0;
};
GreedySoup greedy_soup(std::span<const double> scores,
                       const std::function<double(std::span<const int> ingredients)>& score_of);

}  // namespace outstep::ensemble
