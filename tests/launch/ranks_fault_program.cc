// `carry train` with one rank that harms itself:
//
//   ranks_fault_program RANK SIGNAL COUNT OPERATION DIRECTION RECIPE OUT
//
// RANK raises SIGNAL when it is about to send its COUNT-th message of OPERATION
// and DIRECTION ("-": any), as the program's own labels name them. Every rank
// writes its process id to OUT.pid.<rank> first.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "kernels/parallel_for.h"
#include "launch/train.h"
#include "tests/parallel/watched_communicator.h"

namespace carry {
namespace {

absl::Status Run(char** argv) {
  const int rank = std::atoi(argv[1]), signal = std::atoi(argv[2]);
  const std::string operation = argv[4], direction = argv[5];
  TrainOptions options;
  options.recipe.path = argv[6];
  options.out = argv[7];
  options.threads_given = true;
  SetNumThreads(1);
  return Train(
      options,
      [&](const config::Recipe& recipe,
          bool threads_given) -> absl::StatusOr<Ranks> {
        absl::StatusOr<MpiWorld> mpi =
            InitMpi(recipe.parallel().timeout_seconds());
        if (!mpi.ok()) return mpi.status();
        const int me = mpi->world->rank();
        std::ofstream(options.out + ".pid." + std::to_string(me)) << getpid();
        auto watcher = std::make_shared<MessageWatcher>();
        if (me == rank) {
          watcher->sending = [=, left = std::atoi(argv[3])](
                                 const CommLabel& label, int) mutable {
            const bool due = operation == label.operation &&
                             (direction == "-" || direction == label.direction);
            if (due && --left == 0) raise(signal);
            return true;
          };
        }
        mpi->world = std::make_unique<WatchedCommunicator>(
            std::move(mpi->world), std::move(watcher));
        return JoinRanks(*std::move(mpi), recipe, threads_given);
      });
}

}  // namespace
}  // namespace carry

int main(int argc, char** argv) {
  if (argc != 8) {
    std::cerr << "see the head of " __FILE__ "\n";
    return 2;
  }
  return carry::EndRanks(carry::Run(argv));
}
