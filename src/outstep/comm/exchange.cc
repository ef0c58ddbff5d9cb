#include "outstep/comm/exchange.h"

#include <algorithm>

#include "outstep/base/errors.h"

namespace outstep::comm {

Exchange::Exchange(Group& group, int num_values, CallOptions options)
    : group_(group), num_values_(num_values), options_(options) {}

void Exchange::post(std::span<const double> values) {
  check(values.size() == static_cast<size_t>(num_values_), "an exchange's rounds are of one size");
  Round round{.values = at::empty({group_.size(), num_values_}, at::kDouble), .works = {}};
  const at::Tensor own = round.values[group_.rank()];
  std::copy(values.begin(), values.end(), own.mutable_data_ptr<double>());
  for (int peer = 0; peer < group_.size(); ++peer) {
    if (peer != group_.rank())
      round.works.push_back(group_.recv(round.values[peer], peer, options_));
  }
  for (int peer = 0; peer < group_.size(); ++peer) {
    if (peer != group_.rank()) round.works.push_back(group_.send(own, peer, options_));
  }
  rounds_.push_back(std::move(round));
}

std::vector<std::vector<double>> Exchange::collect() {
  check(!rounds_.empty(), "a round is posted before it is collected");
  Round round = std::move(rounds_.front());
  rounds_.pop_front();
  for (Work& work : round.works) work.wait();
  std::vector<std::vector<double>> values;
  for (int rank = 0; rank < group_.size(); ++rank) {
    const at::Tensor row = round.values[rank];
    const double* begin = row.const_data_ptr<double>();
    values.emplace_back(begin, begin + num_values_);
  }
  return values;
}

}  // namespace outstep::comm
