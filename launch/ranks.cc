#include "launch/ranks.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "framework/memory.h"
#include "framework/train/training_data.h"
#include "kernels/cuda/backend.h"
#include "kernels/parallel_for.h"
#include "launch/device.h"
#include "launch/rates.h"
#include "launch/recipe.h"
#include "parallel/mesh.h"
#include "parallel/nccl_communicator.h"

namespace carry {
namespace {

// Launchers bind a rank to its own cores, or let all ranks of a machine use
// all cores, which they then share.
int ThreadsOfRank(int local_size) {
  const int bound = NumThreads();
  const int all = static_cast<int>(std::thread::hardware_concurrency());
  return bound < all ? bound : std::max(1, all / local_size);
}

// In place of AUTO, on all ranks what rank 0 finds.
absl::Status SettleSchedule(MpiWorld& world, const RankRates& rates,
                            config::Recipe* recipe) {
  config::Parallel& parallel = *recipe->mutable_parallel();
  if (parallel.schedule() != config::Parallel::AUTO) return absl::OkStatus();
  int64_t memory = parallel.memory_budget();
  if (memory <= 0) memory = AvailableMemory(world.local_size);
  int32_t schedule = ChooseSchedule(*recipe, rates, memory).schedule;
  absl::Status status = world.world->Broadcast(&schedule, sizeof(schedule), 0,
                                               {"schedule", -1, -1, ""});
  parallel.set_schedule(static_cast<config::Parallel::Schedule>(schedule));
  return status;
}

// What main cannot report because it waits for a device or a rank that will not
// answer. If it can, it does so sooner.
void EndWhenStuck(const absl::Status& status) {
  std::this_thread::sleep_for(std::chrono::seconds(5));
  std::fprintf(stderr, "carry: error: %s\n",
               std::string(status.message()).c_str());
  std::_Exit(1);  // mpirun then ends the others.
}

// Between GPUs; nullptr where messages go through the host.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectGpus(
    const MpiWorld& world, const config::Recipe& recipe) {
  if (recipe.device() != config::Recipe::CUDA || world.world->size() == 1 ||
      recipe.parallel().transport() == config::Parallel::MPI) {
    return nullptr;
  }
  NcclOptions options;
  options.timeout_seconds = recipe.parallel().timeout_seconds();
  options.neighbours = false;  // Carries go between ranks of a sequence.
  options.on_failure = EndWhenStuck;
  return NcclCommunicator::Create(*world.world,
                                  cuda::StreamOf(BackendOf(Device::kCuda)),
                                  std::move(options));
}

}  // namespace

absl::StatusOr<Ranks> StartRanks(const config::Recipe& recipe,
                                 bool threads_given) {
  const config::Parallel& parallel = recipe.parallel();
  if (LaunchedByMpi() || parallel.data() * parallel.sequence() > 1) {
    absl::StatusOr<MpiWorld> mpi = InitMpi(parallel.timeout_seconds());
    if (!mpi.ok()) return mpi.status();
    return JoinRanks(*std::move(mpi), recipe, threads_given);
  }
  Ranks ranks;
  ranks.distribution = std::make_unique<SingleRank>();
  ranks.recipe = recipe;
  absl::Status status = ResolveVocabulary(&ranks.recipe);
  if (status.ok()) status = OpenDevice(&ranks.recipe);
  if (!status.ok()) return status;
  ranks.rates = MeasureRates(ranks.recipe);
  if (ranks.recipe.parallel().schedule() == config::Parallel::AUTO) {
    ranks.recipe.mutable_parallel()->set_schedule(config::Parallel::WAVEFRONT);
  }
  return ranks;
}

absl::StatusOr<Ranks> JoinRanks(MpiWorld world, const config::Recipe& recipe,
                                bool threads_given) {
  Ranks ranks;
  ranks.local_size = world.local_size;
  if (!threads_given) SetNumThreads(ThreadsOfRank(world.local_size));
  absl::Status status = CheckMeshSize(recipe.parallel(), world.world->size());
  if (status.ok()) {
    status = CheckEqual(*world.world, "program version", CARRY_VERSION);
  }
  if (status.ok()) {
    status = CheckEqual(*world.world, "recipe", RecipeText(recipe));
  }
  if (!status.ok()) return status;
  ranks.recipe = recipe;
  status = ResolveVocabulary(&ranks.recipe);
  if (status.ok()) status = OpenDevice(world, &ranks.recipe);
  if (!status.ok()) return status;
  absl::StatusOr<RankRates> rates = MeasureRates(ranks.recipe, *world.world);
  if (!rates.ok()) return rates.status();
  ranks.rates = *rates;
  status = SettleSchedule(world, ranks.rates, &ranks.recipe);
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<Communicator>> gpus =
      ConnectGpus(world, ranks.recipe);
  if (!gpus.ok()) return gpus.status();
  absl::StatusOr<std::unique_ptr<Mesh>> mesh =
      Mesh::Create(std::move(world.world), ranks.recipe.parallel(),
                   world.local_size, *std::move(gpus));
  if (!mesh.ok()) return mesh.status();
  ranks.distribution = *std::move(mesh);
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
