// Ranks as MPI processes, messages in host memory.
//
// Built with CARRY_MPI; otherwise mpi_communicator_stub.cc takes the place of
// mpi_communicator.cc and says which build option is missing.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace carry {

struct MpiWorld {
  std::unique_ptr<Communicator> world;
  // Of the ranks that share this host's memory, from MPI itself.
  int local_rank = 0;
  int local_size = 1;
};

// Whether a launcher (mpirun, srun) started this process as one of several.
bool LaunchedByMpi();

// MPI_Init on first use. `timeout_seconds` bounds each wait.
absl::StatusOr<MpiWorld> InitMpi(double timeout_seconds);

// Ends MPI in good order; call on all ranks when all is well.
void FinalizeMpi();

// Ends every rank of the run with a non-zero status. Does not return if MPI
// runs.
void AbortMpi(int exit_status);

}  // namespace carry
