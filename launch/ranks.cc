#include "launch/ranks.h"

#include <algorithm>
#include <iostream>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/parallel_for.h"
#include "launch/recipe.h"
#include "parallel/mesh.h"

namespace carry {
namespace {

// Launchers bind a rank to its own cores, or let all ranks of a machine use
// all cores, which they then share.
int ThreadsOfRank(int local_size) {
  const int bound = NumThreads();
  const int all = static_cast<int>(std::thread::hardware_concurrency());
  return bound < all ? bound : std::max(1, all / local_size);
}

}  // namespace

absl::StatusOr<Ranks> StartRanks(const config::Recipe& recipe,
                                 bool threads_given) {
  const config::Parallel& parallel = recipe.parallel();
  Ranks ranks;
  if (!LaunchedByMpi() && parallel.data() * parallel.sequence() == 1) {
    ranks.distribution = std::make_unique<SingleRank>();
    return ranks;
  }
  absl::StatusOr<MpiWorld> mpi = InitMpi(parallel.timeout_seconds());
  if (!mpi.ok()) return mpi.status();
  return JoinRanks(*std::move(mpi), recipe, threads_given);
}

absl::StatusOr<Ranks> JoinRanks(MpiWorld world, const config::Recipe& recipe,
                                bool threads_given) {
  Ranks ranks;
  ranks.local_size = world.local_size;
  if (!threads_given) SetNumThreads(ThreadsOfRank(world.local_size));
  absl::StatusOr<std::unique_ptr<Mesh>> mesh =
      Mesh::Create(std::move(world.world), recipe.parallel());
  if (!mesh.ok()) return mesh.status();
  ranks.distribution = *std::move(mesh);
  absl::Status status =
      ranks.distribution->CheckEqual("program version", CARRY_VERSION);
  if (status.ok()) {
    status = ranks.distribution->CheckEqual("recipe", RecipeText(recipe));
  }
  if (!status.ok()) return status;
  return ranks;
}

int EndRanks(const absl::Status& status) {
  if (status.ok()) {
    FinalizeMpi();
    return 0;
  }
  std::cout.flush();
  std::cerr << "carry: error: " << status.message() << "\n";
  AbortMpi(1);
  return 1;
}

absl::StatusOr<bool> AnyRank(Distribution& ranks, bool mine) {
  std::vector<double> count = {mine ? 1.0 : 0.0};
  absl::Status status = ranks.Sum(count);
  if (!status.ok()) return status;
  return count[0] > 0;
}

}  // namespace carry
