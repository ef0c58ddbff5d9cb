#pragma once

#include <memory>

#include "outstep/comm/fabric.h"

namespace outstep::train {

// Rank 0 of a world whose other ranks are not there: what is sent vanishes, what is received is
// zeros, at once. A step of any synchronizer runs as it would among real ranks, with the same
// buffers and the same number of bytes sent, though its result is of no use. For planning.
std::unique_ptr<comm::Fabric> phantom_fabric(int world_size);

}  // namespace outstep::train
