#pragma once

#include <cstdint>

#include "outstep/comm/group.h"

// What collectives send, by formula: payload bytes of one rank.

namespace outstep::method {

int64_t wire_bytes_per_element(comm::Wire wire);

int64_t reduce_scatter_bytes(const comm::Shards& shards, int rank, comm::Wire wire);
int64_t all_gather_bytes(const comm::Shards& shards, int rank, comm::Wire wire);
// Of a vector of `size` elements of float32 (or, exact, of another type of element_bytes).
int64_t all_reduce_bytes(int64_t size, int rank, int num_ranks, comm::Wire wire,
                         int64_t element_bytes = 4);

}  // namespace outstep::method
