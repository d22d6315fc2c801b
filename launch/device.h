// Which device a run computes on.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "parallel/mpi_communicator.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

// Opens the recipe's device and makes it the default, alone or on all ranks of
// `world`: rank i of a machine takes GPU i. AUTO becomes what was found.
// Errors, the same on all ranks: no GPU or no driver where CUDA is asked for;
// two ranks on one GPU; some ranks with and some without; GPUs of several
// models.
absl::Status OpenDevice(config::Recipe* recipe);
absl::Status OpenDevice(const MpiWorld& world, config::Recipe* recipe);

// "AUTO", "CPU" or "CUDA" for commands that have no recipe.
absl::Status OpenDevice(const std::string& name);

// The GPU, or the CPU's threads (launch/machine.h) and, where AUTO took the
// CPU, why there is no GPU.
std::string DescribeDevice(int ranks_here = 1);

}  // namespace carry
