// AdamW and norms on a GPU: the contract of kernels/adamw.h on device pointers.
#pragma once

#include "kernels/adamw.h"
#include "kernels/cuda/launch_status.h"

namespace carry::cuda {

LaunchStatus AdamW(const AdamWArgs& args, Stream stream);

// Doubles of SumOfSquares' workspace, which need not be initialised.
int64_t SumOfSquaresWorkspace(int64_t n);
// *sum = sum x_i^2 in fp64, in an order that depends on n alone.
LaunchStatus SumOfSquares(const float* x, int64_t n, double* workspace,
                          double* sum, Stream stream);

}  // namespace carry::cuda
