#include "outstep/ensemble/shuffle.h"

#include <numeric>

#include "outstep/base/errors.h"

namespace outstep::ensemble {
namespace {

// Indices of positions, one list a member, joined to a tensor.
struct Sorted {
  explicit Sorted(int num_members) : by_member(static_cast<size_t>(num_members)) {}

  at::Tensor joined(at::Device device) const {
    int64_t size = 0;
    for (const auto& list : by_member) size += std::ssize(list);
    const at::Tensor all = at::empty({size}, at::kLong);
    int64_t* to = all.mutable_data_ptr<int64_t>();
    for (const auto& list : by_member) to = std::copy(list.begin(), list.end(), to);
    return all.to(device);
  }
  std::vector<int64_t> counts() const {
    std::vector<int64_t> counts;
    for (const auto& list : by_member) counts.push_back(std::ssize(list));
    return counts;
  }

  std::vector<std::vector<int64_t>> by_member;
};

int destination_of(const Plan& plan, int64_t k, int member) {
  int destination = 0;
  while (plan.source(k, destination) != member) ++destination;
  return destination;
}

}  // namespace

Shuffle::Shuffle(const Plan& plan, int member, std::span<const Lane> lanes) {
  const auto num_members = static_cast<size_t>(plan.num_members);
  splits_.sent.assign(num_members, 0);
  splits_.received.assign(num_members, 0);
  for (const Lane& lane : lanes) {
    Sorted outgoing(plan.num_members), incoming(plan.num_members);
    for (int64_t k = 0; k < plan.size(); ++k) {
      const int source = plan.source(k, member);
      const int64_t index = plan.positions[static_cast<size_t>(k)] - lane.begin;
      if (source == member || index < 0 || index >= lane.values.numel()) continue;
      incoming.by_member[static_cast<size_t>(source)].push_back(index);
      outgoing.by_member[static_cast<size_t>(destination_of(plan, k, member))].push_back(index);
    }
    const at::Device device = lane.values.device();
    lanes_.push_back({.outgoing = outgoing.joined(device),
                      .incoming = incoming.joined(device),
                      .num_outgoing = outgoing.counts(),
                      .num_incoming = incoming.counts()});
    for (size_t n = 0; n < num_members; ++n) {
      splits_.sent[n] += lanes_.back().num_outgoing[n];
      splits_.received[n] += lanes_.back().num_incoming[n];
    }
  }
}

at::Tensor Shuffle::gather(std::span<const Lane> lanes, at::Tensor OfLane::* indices,
                           std::vector<int64_t> OfLane::* counts) const {
  check(lanes.size() == lanes_.size(), "a shuffle is used with the lanes that it was made for");
  if (lanes.size() == 1) return lanes[0].values.index_select(0, lanes_[0].*indices);
  std::vector<std::vector<at::Tensor>> parts;  // by lane, member
  for (size_t i = 0; i < lanes.size(); ++i) {
    const at::Tensor values = lanes[i].values.index_select(0, lanes_[i].*indices);
    parts.push_back(values.split_with_sizes(lanes_[i].*counts));
  }
  std::vector<at::Tensor> message;
  for (size_t n = 0; n < splits_.sent.size(); ++n) {
    for (const auto& of_lane : parts) message.push_back(of_lane[n]);
  }
  return at::cat(message);
}

at::Tensor Shuffle::pack(std::span<const Lane> lanes) const {
  return gather(lanes, &OfLane::outgoing, &OfLane::num_outgoing);
}

at::Tensor Shuffle::pack_incoming(std::span<const Lane> lanes) const {
  return gather(lanes, &OfLane::incoming, &OfLane::num_incoming);
}

at::Tensor Shuffle::exchange(comm::Group& group, const at::Tensor& packed,
                             const comm::CallOptions& options) const {
  const int64_t size =
      std::accumulate(splits_.received.begin(), splits_.received.end(), int64_t{0});
  const at::Tensor received = at::empty({size}, packed.options());
  group.all_to_all(packed, received, splits_, options);
  return received;
}

std::vector<at::Tensor> Shuffle::by_lane(const at::Tensor& received) const {
  if (lanes_.size() == 1) return {received};
  std::vector<std::vector<at::Tensor>> parts(lanes_.size());  // by lane, member
  int64_t begin = 0;
  for (size_t n = 0; n < splits_.received.size(); ++n) {
    for (size_t i = 0; i < lanes_.size(); ++i) {
      const int64_t count = lanes_[i].num_incoming[n];
      parts[i].push_back(received.narrow(0, begin, count));
      begin += count;
    }
  }
  std::vector<at::Tensor> joined;
  for (const auto& of_lane : parts) joined.push_back(at::cat(of_lane));
  return joined;
}

void Shuffle::unpack(const at::Tensor& received, std::span<const Lane> lanes) const {
  const std::vector<at::Tensor> values = by_lane(received);
  for (size_t i = 0; i < lanes.size(); ++i) {
    lanes[i].values.index_copy_(0, lanes_[i].incoming, values[i]);
  }
}

void Shuffle::add(const at::Tensor& difference, std::span<const Lane> lanes) const {
  const std::vector<at::Tensor> values = by_lane(difference);
  for (size_t i = 0; i < lanes.size(); ++i) {
    lanes[i].values.index_add_(0, lanes_[i].incoming, values[i]);
  }
}

}  // namespace outstep::ensemble
