#pragma once

#include <chrono>
#include <memory>

#include "outstep/comm/fabric.h"

namespace outstep::comm {

// Groups over MPI, for clusters whose network is best reached that way. The program must have been
// started by mpirun (or srun with PMIx) of the MPI it was built with. One such fabric a process and
// lifetime: MPI starts and ends once. Throws ConfigError in builds without MPI (OUTSTEP_MPI=OFF)
// and where MPI and the launcher's variables disagree.
std::unique_ptr<Fabric> connect_mpi(const World& world, std::chrono::milliseconds deadline);

}  // namespace outstep::comm
