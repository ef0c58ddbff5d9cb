#include "outstep/comm/collectives.h"

#include <algorithm>
#include <array>
#include <deque>

#include "outstep/base/errors.h"
#include "outstep/comm/reduction.h"
#include "outstep/comm/stream.h"
#include "outstep/comm/sum.h"

namespace outstep::comm::collectives {
namespace {

// Each kind has tags of its own, above the user's. Messages of one tag keep their order, so
// segments need no numbers.
enum class Kind : Tag { reduce = 1, gather, all_to_all, broadcast };

CallOptions options_for(Kind kind, const char* operation, CallOptions options) {
  if (*options.operation == '\0') {  // not called from another collective
    check(options.tag < kReservedTags, "user tags stay below kReservedTags");
    options.operation = operation;
  }
  options.tag = options.tag % kReservedTags + static_cast<Tag>(kind) * kReservedTags;
  return options;
}

at::Tensor flat(const at::Tensor& tensor) {
  check(tensor.is_contiguous(), "tensors of a collective are contiguous");
  check(tensor.is_cpu(), "these collectives are for tensors in the machine's memory");
  return tensor.detach().view({-1});
}

at::ScalarType wire_dtype(const at::Tensor& tensor, Wire wire) {
  const bool is_rounded = wire == Wire::bf16 && tensor.scalar_type() == at::kFloat;
  return is_rounded ? at::kBFloat16 : tensor.scalar_type();
}

// The same on all ranks of a group.
Segments segments_for(const Cut& cut, at::ScalarType wire, int num_peers) {
  constexpr int64_t kMinWindow = 2;  // one arrives while the other is summed
  const int64_t num_bytes =
      std::min(cut.segment_bytes, cut.window_bytes / (kMinWindow * num_peers));
  const int64_t length =
      std::max<int64_t>(1, num_bytes / static_cast<int64_t>(c10::elementSize(wire)));
  const int64_t window =
      cut.window_bytes / (length * static_cast<int64_t>(c10::elementSize(wire)) * num_peers);
  return {.length = length, .window = std::max(kMinWindow, window)};
}

// Vectors that need no scratch, in segments all the same: a deadline then bounds the silence
// between two of them, not the time that a large vector takes on a slow link.
void receive_in_segments(Group& group, const at::Tensor& vector, int peer, const Segments& segments,
                         const CallOptions& options, std::vector<Work>& works) {
  for (int64_t segment = 0; segment < segments.count(vector.numel()); ++segment) {
    works.push_back(group.recv(segment_of(vector, segment, segments), peer, options));
  }
}

void send_in_segments(Group& group, const at::Tensor& vector, int peer, const Segments& segments,
                      const CallOptions& options, std::vector<Work>& works) {
  for (int64_t segment = 0; segment < segments.count(vector.numel()); ++segment) {
    works.push_back(group.send(segment_of(vector, segment, segments), peer, options));
  }
}

// A vector's parts, one a rank, one behind the other.
std::vector<at::Tensor> parts_of(const at::Tensor& vector, const std::vector<int64_t>& sizes,
                                 int num_ranks) {
  check(std::ssize(sizes) == num_ranks, "all_to_all has a part for each rank");
  const at::Tensor values = flat(vector);
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t size : sizes) {
    check(size >= 0 && begin + size <= values.numel(), "all_to_all's parts lie in its vector");
    parts.push_back(values.narrow(0, begin, size));
    begin += size;
  }
  check(begin == values.numel(), "all_to_all's parts are all of its vector");
  return parts;
}

void gather_exact(Group& group, const at::Tensor& output, const Shards& shards,
                  const CallOptions& options, const Cut& cut) {
  const Segments segments = segments_for(cut, output.scalar_type(), group.size() - 1);
  std::vector<Work> works;
  for (int distance = 1; distance < group.size(); ++distance) {
    const int peer = peer_before(group, distance);
    receive_in_segments(group, output.narrow(0, shards.begin(peer), shards.size(peer)), peer,
                        segments, options, works);
  }
  const at::Tensor own = output.narrow(0, shards.begin(group.rank()), shards.size(group.rank()));
  for (int distance = 1; distance < group.size(); ++distance) {
    send_in_segments(group, own, peer_after(group, distance), segments, options, works);
  }
  for (Work& work : works) work.wait();
}

// Everybody, the owner too, takes the rounded values.
void gather_bf16(Group& group, const at::Tensor& output, const Shards& shards,
                 const CallOptions& options, const Cut& cut) {
  const int64_t own_size = shards.size(group.rank());
  const Segments segments = segments_for(cut, at::kBFloat16, group.size() - 1);
  std::deque<Incoming> incoming;
  for (int distance = 1; distance < group.size(); ++distance) {
    const int peer = peer_before(group, distance);
    incoming.emplace_back(group, peer, shards.size(peer), at::kBFloat16, segments, at::Tensor(),
                          options);
  }
  std::array<at::Tensor, 1> packed = {at::empty({own_size}, at::kBFloat16)};
  const at::Tensor own = output.narrow(0, shards.begin(group.rank()), own_size);
  round_to_bf16(packed[0], own);
  std::vector<Work> sends;
  for (int distance = 1; distance < group.size(); ++distance) {
    send_in_segments(group, packed[0], peer_after(group, distance), segments, options, sends);
  }
  if (own_size > 0) sum_in_order(own, packed);
  for (int64_t segment = 0; segment < segments.count(shards.length()); ++segment) {
    for (int distance = 1; distance < group.size(); ++distance) {
      Incoming& stream = incoming[static_cast<size_t>(distance - 1)];
      if (segment >= stream.count()) continue;
      const int peer = peer_before(group, distance);
      const std::array<at::Tensor, 1> arrived = {stream.take(segment)};
      const at::Tensor place = output.narrow(0, shards.begin(peer), shards.size(peer));
      sum_in_order(segment_of(place, segment, segments), arrived);
      stream.release(segment);
    }
  }
  for (Work& work : sends) work.wait();
}

// Reduces and gathers at once: what is summed is sent on while later segments are still being
// summed.
void all_reduce_in_shards(Group& group, const at::Tensor& vector, const CallOptions& options,
                          const Cut& cut) {
  const Shards shards{.total = vector.numel(), .count = group.size(), .grain = kShardGrain};
  const auto shard_of = [&](int rank) {
    return vector.narrow(0, shards.begin(rank), shards.size(rank));
  };
  Reduction reduction{.group = group,
                      .outgoing = {},
                      .output = shard_of(group.rank()),
                      .wire = vector.scalar_type(),
                      .cut = segments_for(cut, vector.scalar_type(), group.size() - 1)};
  for (int rank = 0; rank < group.size(); ++rank) reduction.outgoing.push_back(shard_of(rank));

  const CallOptions gather_options = options_for(Kind::gather, "all_reduce", options);
  std::vector<Work> gathering;
  reduction.on_sent = [&](int64_t segment) {
    // A peer's sum takes the place of what was sent to it.
    for (int distance = 1; distance < group.size(); ++distance) {
      const int peer = peer_before(group, distance);
      if (segment >= reduction.cut.count(shards.size(peer))) continue;
      gathering.push_back(
          group.recv(segment_of(shard_of(peer), segment, reduction.cut), peer, gather_options));
    }
  };
  reduction.on_summed = [&](int64_t segment) {
    for (int distance = 1; distance < group.size(); ++distance) {
      gathering.push_back(group.send(segment_of(reduction.output, segment, reduction.cut),
                                     peer_after(group, distance), gather_options));
    }
  };
  run_reduction(reduction, options);
  for (Work& work : gathering) work.wait();
}

// What a collective does in a group of one, on any device.
void copy_alone(const at::Tensor& input, const at::Tensor& output, Wire wire) {
  const at::ScalarType wire_type = wire_dtype(input, wire);
  const at::Tensor values = flat(input);
  if (wire_type != input.scalar_type()) {
    flat(output).copy_(values.to(wire_type));
  } else if (output.const_data_ptr() != input.const_data_ptr()) {
    flat(output).copy_(values);
  }
}

}  // namespace

bool sends_whole(int64_t num_bytes, int num_ranks, const Cut& cut) {
  return num_bytes * (num_ranks - 1) <= cut.direct_bytes;
}

void reduce_scatter(Group& group, const at::Tensor& input, at::Tensor output, const Shards& shards,
                    CallOptions options, Wire wire, const Cut& cut) {
  options = options_for(Kind::reduce, "reduce_scatter", options);
  check(shards.count == group.size(), "there is a shard for each rank");
  check(input.numel() == shards.total, "reduce_scatter's input is as long as the shards");
  check(output.numel() == shards.size(group.rank()),
        "reduce_scatter's output is this rank's shard");
  check(input.scalar_type() == output.scalar_type(), "reduce_scatter keeps the dtype");
  if (group.size() == 1) return copy_alone(input, output, wire);
  const at::Tensor values = flat(input);
  Reduction reduction{.group = group,
                      .outgoing = {},
                      .output = flat(output),
                      .wire = wire_dtype(input, wire),
                      .cut = {}};
  reduction.cut = segments_for(cut, reduction.wire, group.size() - 1);
  for (int rank = 0; rank < group.size(); ++rank) {
    reduction.outgoing.push_back(values.narrow(0, shards.begin(rank), shards.size(rank)));
  }
  run_reduction(reduction, options);
}

void all_gather(Group& group, const at::Tensor& input, at::Tensor output, const Shards& shards,
                CallOptions options, Wire wire, const Cut& cut) {
  options = options_for(Kind::gather, "all_gather", options);
  check(shards.count == group.size(), "there is a shard for each rank");
  check(output.numel() == shards.total, "all_gather's output is as long as the shards");
  check(input.numel() == shards.size(group.rank()), "all_gather's input is this rank's shard");
  check(input.scalar_type() == output.scalar_type(), "all_gather keeps the dtype");
  if (group.size() == 1) return copy_alone(input, output, wire);
  const at::Tensor whole = flat(output);
  copy_bytes(whole.narrow(0, shards.begin(group.rank()), input.numel()), flat(input));
  if (wire_dtype(output, wire) == output.scalar_type()) {
    gather_exact(group, whole, shards, options, cut);
  } else {
    gather_bf16(group, whole, shards, options, cut);
  }
}

void all_reduce(Group& group, at::Tensor tensor, CallOptions options, Wire wire, const Cut& cut) {
  if (group.size() == 1) return copy_alone(tensor, tensor, wire);
  const at::Tensor vector = flat(tensor);
  const at::ScalarType wire_type = wire_dtype(vector, wire);
  if (sends_whole(static_cast<int64_t>(vector.nbytes()), group.size(), cut)) {
    Reduction reduction{
        .group = group,
        .outgoing = std::vector<at::Tensor>(static_cast<size_t>(group.size()), vector),
        .output = vector,
        .wire = wire_type,
        .cut = segments_for(cut, wire_type, group.size() - 1),
        .is_rounded = wire_type != vector.scalar_type()};
    return run_reduction(reduction, options_for(Kind::reduce, "all_reduce", options));
  }
  options = options_for(Kind::reduce, "all_reduce", options);
  if (wire_type == vector.scalar_type()) return all_reduce_in_shards(group, vector, options, cut);
  const Shards shards{.total = vector.numel(), .count = group.size(), .grain = kShardGrain};
  const at::Tensor own = vector.narrow(0, shards.begin(group.rank()), shards.size(group.rank()));
  reduce_scatter(group, vector, own, shards, options, wire, cut);
  all_gather(group, own, vector, shards, options, wire, cut);
}

void all_to_all(Group& group, const at::Tensor& input, at::Tensor output, CallOptions options) {
  check(input.size(0) == group.size() && output.size(0) == group.size(),
        "all_to_all has a row for each rank");
  check(input.numel() == output.numel(), "all_to_all keeps the size");
  const std::vector<int64_t> rows(static_cast<size_t>(group.size()), input.numel() / group.size());
  all_to_all(group, input, std::move(output), {.sent = rows, .received = rows}, options);
}

void all_to_all(Group& group, const at::Tensor& input, at::Tensor output, const Splits& splits,
                CallOptions options) {
  options = options_for(Kind::all_to_all, "all_to_all", options);
  check(input.scalar_type() == output.scalar_type(), "all_to_all keeps the dtype");
  const std::vector<at::Tensor> outgoing = parts_of(input, splits.sent, group.size());
  const std::vector<at::Tensor> incoming = parts_of(output, splits.received, group.size());
  const auto own = static_cast<size_t>(group.rank());
  check(outgoing[own].numel() == incoming[own].numel(),
        "what a rank sends to itself is what it receives");
  std::vector<Work> works;
  if (group.size() > 1) {
    const Segments segments = segments_for({}, input.scalar_type(), group.size() - 1);
    for (int distance = 1; distance < group.size(); ++distance) {
      const int peer = peer_before(group, distance);
      receive_in_segments(group, incoming[static_cast<size_t>(peer)], peer, segments, options,
                          works);
    }
    for (int distance = 1; distance < group.size(); ++distance) {
      const int peer = peer_after(group, distance);
      send_in_segments(group, outgoing[static_cast<size_t>(peer)], peer, segments, options, works);
    }
  }
  copy_bytes(incoming[own], outgoing[own]);
  for (Work& work : works) work.wait();
}

void broadcast(Group& group, at::Tensor tensor, int root, CallOptions options, const Cut& cut) {
  options = options_for(Kind::broadcast, "broadcast", options);
  check(root >= 0 && root < group.size(), "the root is a rank of the group");
  if (group.size() == 1) return;
  const at::Tensor vector = flat(tensor);
  const bool is_root = group.rank() == root;
  const bool is_small =
      group.size() <= 2 || sends_whole(static_cast<int64_t>(vector.nbytes()), group.size(), cut);
  // A large vector is scattered and then gathered: the root's link carries it twice, not N-1 times.
  const Shards shards{
      .total = vector.numel(), .count = is_small ? 1 : group.size(), .grain = kShardGrain};
  const auto part_of = [&](int rank) {
    return is_small ? vector : vector.narrow(0, shards.begin(rank), shards.size(rank));
  };
  const Segments segments = segments_for(cut, vector.scalar_type(), group.size() - 1);
  std::vector<Work> works;
  if (!is_root) receive_in_segments(group, part_of(group.rank()), root, segments, options, works);
  // Peers take turns, so that none is silent while the root sends all of another's part.
  for (int64_t segment = 0; is_root && segment < segments.count(shards.length()); ++segment) {
    for (int distance = 1; distance < group.size(); ++distance) {
      const int peer = peer_after(group, distance);
      if (segment >= segments.count(part_of(peer).numel())) continue;
      works.push_back(group.send(segment_of(part_of(peer), segment, segments), peer, options));
    }
  }
  for (Work& work : works) work.wait();
  if (!is_small)
    all_gather(group, part_of(group.rank()), vector, shards, options, Wire::exact, cut);
}

void barrier(Group& group, CallOptions options) {
  options = options_for(Kind::all_to_all, "barrier", options);
  // Everybody tells everybody, so that an error names the rank that did not come.
  const at::Tensor told = at::zeros({group.size()}, at::kByte);
  const at::Tensor heard = at::zeros({group.size()}, at::kByte);
  all_to_all(group, told.view({-1, 1}), heard.view({-1, 1}), options);
}

}  // namespace outstep::comm::collectives
