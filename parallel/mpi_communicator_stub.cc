// In place of mpi_communicator.cc where carry is built without MPI.

#include "parallel/mpi_communicator.h"

namespace carry {

bool LaunchedByMpi() { return false; }

absl::StatusOr<MpiWorld> InitMpi(double) {
  return absl::UnimplementedError(
      "several ranks need MPI, which this carry was built without; install "
      "libopenmpi-dev and configure with -DCARRY_MPI=ON");
}

void FinalizeMpi() {}
void AbortMpi(int) {}

}  // namespace carry
