#pragma once

#include <string>
#include <utility>
#include <vector>

#include "outstep/train/assembly.h"

namespace outstep::train {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// The whole model's tensors under their names, on the first rank of each member; of others nothing.
// The stages of the member's first replica send theirs; that rank holds all of them for as long as
// it holds the result. Every rank of the member calls it.
NamedTensors gather_stages(const Assembly& assembly);

}  // namespace outstep::train
