#pragma once

#include <cstdint>

#include "outstep/comm/group.h"
#include "outstep/io/settings.h"

// What collectives send, by formula: payload bytes of one rank. Tests hold the groups' own count
// against it.

namespace outstep::method {

// Key wire of [sync]: "fp32" or "bf16".
comm::Wire read_wire(io::Section& section);
int64_t wire_bytes_per_element(comm::Wire wire);

// Of a flat float32 vector.
int64_t reduce_scatter_bytes(const comm::Shards& shards, int rank, comm::Wire wire);
int64_t all_gather_bytes(const comm::Shards& shards, int rank, comm::Wire wire);
int64_t all_reduce_bytes(int64_t size, int rank, int num_ranks, comm::Wire wire);

// Of a few numbers that are sent whole to every rank.
int64_t small_all_reduce_bytes(int64_t num_bytes, int num_ranks);

}  // namespace outstep::method
