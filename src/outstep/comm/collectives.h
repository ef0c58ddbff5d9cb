#pragma once

#include "outstep/comm/group.h"

// Collectives built over tagged send and recv, the same for every backend.
//
// Every rank talks to every other at once, so both directions of a link are filled. A *shard* is
// what one rank owns at the end; a *segment* is a piece of a shard on the wire. Receives are posted
// before sends; segments are summed in rank order, ((x0 + x1) + x2) + …, while later ones are still
// arriving. Hence the same bits on every run, every backend, for every way of cutting and for both
// ways of all_reduce.
//
// Cost per rank and direction: reduce_scatter and all_gather (N-1)/N of the vector; all_reduce
// twice that, or (N-1) small vectors (sends_whole). Scratch for what arrives at most
// Cut::window_bytes; with bfloat16 on the wire as much again for what is sent, and the own shard
// packed where it is gathered. Deadlines count anew for each transfer: a peer may
// be slow, but never silent for longer. The calling thread does all the work; CPU tensors,
// contiguous.

namespace outstep::comm::collectives {

// How vectors are cut. The defaults suit loopback and slow links; no value changes a result.
struct Cut {
  // At most; less where the window would not hold two from each peer.
  int64_t segment_bytes = 4 << 20;
  // Scratch for segments under way, all peers together.
  int64_t window_bytes = 16 << 20;
  // all_reduce sends vectors whole while a rank sends no more than this: one phase instead of two.
  int64_t direct_bytes = 256 << 10;
};

// Elements; the shards of all_reduce start on cache lines.
inline constexpr int64_t kShardGrain = 16;
// Whether all_reduce sends every rank the whole vector.
bool sends_whole(int64_t num_bytes, int num_ranks, const Cut& cut = {});

void all_reduce(Group& group, at::Tensor tensor, CallOptions options, Wire wire,
                const Cut& cut = {});
void reduce_scatter(Group& group, const at::Tensor& input, at::Tensor output, const Shards& shards,
                    CallOptions options, Wire wire, const Cut& cut = {});
void all_gather(Group& group, const at::Tensor& input, at::Tensor output, const Shards& shards,
                CallOptions options, Wire wire, const Cut& cut = {});
void all_to_all(Group& group, const at::Tensor& input, at::Tensor output, CallOptions options);
void all_to_all(Group& group, const at::Tensor& input, at::Tensor output, const Splits& splits,
                CallOptions options);
void broadcast(Group& group, at::Tensor tensor, int root, CallOptions options, const Cut& cut = {});
void barrier(Group& group, CallOptions options);

}  // namespace outstep::comm::collectives
