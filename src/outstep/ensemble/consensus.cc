#include "outstep/ensemble/consensus.h"

#include <cmath>

#include "outstep/comm/average.h"

namespace outstep::ensemble {
namespace {

double squared_norm(const at::Tensor& values) {
  const double norm =
      at::linalg_vector_norm(values, 2, std::nullopt, false, at::kDouble).item<double>();
  return norm * norm;
}

}  // namespace

Consensus measure_consensus(comm::Group& members, const at::Tensor& values) {
  const at::NoGradGuard no_grad;
  const at::Tensor mean = values.clone();
  comm::average(members, mean, {.what = "mean of members"});
  Consensus consensus{.mean_norm = squared_norm(mean)};
  const at::Tensor distance = at::full({1}, squared_norm(mean.sub_(values)), at::kDouble);
  members.all_reduce(distance, {.what = "distances to the mean"});
  consensus.distance = distance.item<double>() / members.size();
  return consensus;
}

at::Tensor measure_pairs(comm::Group& members, const at::Tensor& values) {
  const at::NoGradGuard no_grad;
  const int num_members = members.size();
  const at::Tensor squares = at::zeros({num_members, num_members}, at::kDouble);
  for (int other = 0; other < num_members; ++other) {
    const at::Tensor theirs = values.clone();
    members.broadcast(theirs, other, {.what = "distances of members"});
    squares[members.rank()][other] = squared_norm(theirs.sub_(values));
  }
  // A row of each member: a sum with zeros is exact.
  members.all_reduce(squares, {.what = "distances of members"});
  return squares;
}

}  // namespace outstep::ensemble
