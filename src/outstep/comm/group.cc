#include "outstep/comm/group.h"

#include <fmt/format.h>

#include "outstep/base/errors.h"
#include "outstep/comm/collectives.h"

namespace outstep::comm {
namespace {

// A transfer of a collective has its operation filled in and a tag above the user's.
void complete(CallOptions& options, const char* operation, const Group& group) {
  const bool is_part_of_collective = *options.operation != '\0';
  check(is_part_of_collective || options.tag < kReservedTags, "user tags stay below kReservedTags");
  if (!is_part_of_collective) options.operation = operation;
  if (!options.deadline) options.deadline = group.deadline();
}

void check_transfer(const Group& group, const at::Tensor& tensor, int peer) {
  check(peer >= 0 && peer < group.size() && peer != group.rank(),
        "a peer is another rank of the group");
  check(tensor.is_contiguous(), "tensors that are sent or received are contiguous");
}

}  // namespace

Work Group::send(const at::Tensor& tensor, int peer, CallOptions options) {
  check_transfer(*this, tensor, peer);
  complete(options, "send", *this);
  if (tensor.numel() == 0) return {};
  count_sent(static_cast<int64_t>(tensor.nbytes()));
  return do_send(tensor, peer, options);
}

Work Group::recv(at::Tensor tensor, int peer, CallOptions options) {
  check_transfer(*this, tensor, peer);
  complete(options, "recv", *this);
  if (tensor.numel() == 0) return {};
  return do_recv(std::move(tensor), peer, options);
}

void Group::all_reduce(at::Tensor tensor, CallOptions options, Wire wire) {
  collectives::all_reduce(*this, std::move(tensor), options, wire);
}

void Group::reduce_scatter(const at::Tensor& input, at::Tensor output, const Shards& shards,
                           CallOptions options, Wire wire) {
  collectives::reduce_scatter(*this, input, std::move(output), shards, options, wire);
}

void Group::all_gather(const at::Tensor& input, at::Tensor output, const Shards& shards,
                       CallOptions options, Wire wire) {
  collectives::all_gather(*this, input, std::move(output), shards, options, wire);
}

void Group::all_to_all(const at::Tensor& input, at::Tensor output, CallOptions options) {
  collectives::all_to_all(*this, input, std::move(output), options);
}

void Group::all_to_all(const at::Tensor& input, at::Tensor output, const Splits& splits,
                       CallOptions options) {
  collectives::all_to_all(*this, input, std::move(output), splits, options);
}

void Group::broadcast(at::Tensor tensor, int root, CallOptions options) {
  collectives::broadcast(*this, std::move(tensor), root, options);
}

void Group::barrier(CallOptions options) { collectives::barrier(*this, options); }

std::string Group::describe(int peer) const { return fmt::format("rank {}", peer); }

}  // namespace outstep::comm
