#include "outstep/method/traffic.h"

#include "outstep/comm/collectives.h"

namespace outstep::method {

comm::Wire read_wire(io::Section& section) {
  const std::string wire = section.text("wire", "fp32", {.choices = {"fp32", "bf16"}});
  return wire == "bf16" ? comm::Wire::bf16 : comm::Wire::exact;
}

int64_t wire_bytes_per_element(comm::Wire wire) { return wire == comm::Wire::bf16 ? 2 : 4; }

int64_t reduce_scatter_bytes(const comm::Shards& shards, int rank, comm::Wire wire) {
  return (shards.total - shards.size(rank)) * wire_bytes_per_element(wire);
}

int64_t all_gather_bytes(const comm::Shards& shards, int rank, comm::Wire wire) {
  return (shards.count - 1) * shards.size(rank) * wire_bytes_per_element(wire);
}

int64_t all_reduce_bytes(int64_t size, int rank, int num_ranks, comm::Wire wire) {
  constexpr int64_t kBytesInMemory = sizeof(float);
  if (num_ranks <= 2 || comm::collectives::sends_whole(size * kBytesInMemory, num_ranks)) {
    return (num_ranks - 1) * size * wire_bytes_per_element(wire);
  }
  const comm::Shards shards{
      .total = size, .count = num_ranks, .grain = comm::collectives::kShardGrain};
  return reduce_scatter_bytes(shards, rank, wire) + all_gather_bytes(shards, rank, wire);
}

int64_t small_all_reduce_bytes(int64_t num_bytes, int num_ranks) {
  return (num_ranks - 1) * num_bytes;
}

}  // namespace outstep::method
