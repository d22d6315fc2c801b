// The ranks of a run, as a subcommand starts them.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "framework/train/distribution.h"
#include "parallel/mpi_communicator.h"
#include "parallel/plan.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

struct Ranks {
  std::unique_ptr<Distribution> distribution;
  int local_size = 1;  // ranks on this machine
  RankRates rates;     // as measured at start
  // The recipe, its schedule no longer AUTO.
  config::Recipe recipe;
};

// Starts MPI if a launcher started this process or if the recipe asks for more
// than one rank; refuses a mesh that is not of as many ranks as were started,
// and ranks that were started with other programs or recipes. Sets the threads
// of this rank's kernels, if they were not given: the cores that it was bound
// to, or its share of all; measures their rates; asks the planner if the
// schedule is AUTO (rank 0's answer holds for all).
absl::StatusOr<Ranks> StartRanks(const config::Recipe& recipe,
                                 bool threads_given);

// The same from ranks that are connected already.
absl::StatusOr<Ranks> JoinRanks(MpiWorld world, const config::Recipe& recipe,
                                bool threads_given);

// Ends this rank: in good order, or with the error on standard error and an
// end to all ranks, wherever they are. Returns the process's exit status.
int EndRanks(const absl::Status& status);

// Whether any rank says yes; the same answer on all. Collective.
absl::StatusOr<bool> AnyRank(Distribution& ranks, bool mine);

}  // namespace carry
