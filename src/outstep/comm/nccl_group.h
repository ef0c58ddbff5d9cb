#pragma once

#include <memory>
#include <string>

#include "outstep/comm/group.h"
#include "outstep/comm/rendezvous.h"

namespace outstep::comm {

// Throws ConfigError where NCCL cannot be used: LibTorch without CUDA, or no GPU for this rank.
void require_nccl(const World& world);

// A group whose CUDA tensors travel by c10d's ProcessGroupNCCL and all others by cpu_group, which
// it owns. The ranks are those of cpu_group; key tells its meeting from all others.
//
// What differs from other groups, for CUDA tensors: collectives are NCCL's own, so sums are not
// taken in rank order and Wire is always exact; sends and receives between two ranks are matched in
// order, whatever their tags. CUDA tensors may be used by the current stream when a collective or
// wait() returns.
std::unique_ptr<Group> make_nccl_group(std::unique_ptr<Group> cpu_group, Rendezvous& rendezvous,
                                       const std::string& key, int local_rank);

}  // namespace outstep::comm
