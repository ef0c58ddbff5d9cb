#include "outstep/ensemble/soup.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "outstep/base/errors.h"

namespace outstep::ensemble {
namespace {

// NaN has no place in an order.
double ranked(double score) {
  return std::isnan(score) ? -std::numeric_limits<double>::infinity() : score;
}

}  // namespace

SoupOptions SoupOptions::read(io::Section& section) {
  SoupOptions options;
  if (section.text("batch_norm", "recompute") == "repair") {
    throw ConfigError(
        "{}: ensemble.batch_norm = \"repair\" would rescale channels, which cancels before a batch "
        "norm, and all convolutions here have one behind them; use \"recompute\"",
        section.origin("batch_norm"));
  }
  const std::string statistics =
      section.text("batch_norm", "recompute", {.choices = {"recompute", "average"}});
  options.batches = section.integer("batch_norm_batches", options.batches, {.min = 1});
  if (statistics == "average") {
    options.statistics = Statistics::average;
    // A file may have it for the other choice, as a run's own recipe has.
    if (const std::string origin = section.origin("batch_norm_batches"); origin.starts_with("--")) {
      throw ConfigError(
          "{}: ensemble.batch_norm_batches is for ensemble.batch_norm = \"recompute\", and here it "
          "is \"average\"",
          origin);
    }
  }
  options.barrier_points =
      section.integer("barrier_points", options.barrier_points, {.min = 0, .max = 100});
  return options;
}

void make_soup(comm::Group& members, const at::Tensor& values, std::span<const int64_t> parts) {
  const int64_t total = std::reduce(parts.begin(), parts.end());
  check(std::ssize(parts) == members.size() && total > 0, "a soup has an ingredient");
  const at::NoGradGuard no_grad;
  if (values.numel() == 0) return;
  const int64_t own = parts[static_cast<size_t>(members.rank())];
  if (own == 0) {
    values.zero_();  // what is left out may have diverged, and 0 · inf is none
  } else {
    values.mul_(own);
  }
  members.all_reduce(values, {.what = "a soup"});
  values.div_(total);
}

GreedySoup greedy_soup(std::span<const double> scores,
                       const std::function<double(std::span<const int> ingredients)>& score_of) {
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [&](int member) { return ranked(scores[static_cast<size_t>(member)]); });
  GreedySoup soup{.ingredients = {order.front()},
                  .score = ranked(scores[static_cast<size_t>(order.front())])};
  for (size_t i = 1; i < order.size(); ++i) {
    std::vector<int> more = soup.ingredients;
    more.push_back(order[i]);
    const double score = ranked(score_of(more));
    if (score > soup.score) soup = {.ingredients = std::move(more), .score = score};
  }
  return soup;
}

}  // namespace outstep::ensemble
