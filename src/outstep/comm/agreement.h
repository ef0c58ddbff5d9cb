#pragma once

#include <cstdint>
#include <string>

#include "outstep/comm/group.h"

namespace outstep::comm {

// Makes sure, before any training, that all ranks of the group have the same thing: a recipe, a
// parameter layout. Every rank calls it with its own thing's hash (hash64); where they differ,
// every rank throws the same ConfigError naming the ranks that differ from the others. name
// completes "ranks differ in their …".
void require_agreement(Group& group, const std::string& name, uint64_t hash);

}  // namespace outstep::comm
