// RMSNorm on a GPU: the contract of kernels/rms_norm.h on device pointers. A
// block a row.
#pragma once

#include "kernels/cuda/launch_status.h"
#include "kernels/rms_norm.h"

namespace carry::cuda {

LaunchStatus RmsNormForward(const RmsNormForwardArgs& args, Stream stream);

// Floats of backward's workspace, which need not be initialised.
int64_t RmsNormBackwardWorkspace(int64_t rows, int64_t dim);
LaunchStatus RmsNormBackward(const RmsNormBackwardArgs& args, float* workspace,
                             Stream stream);

}  // namespace carry::cuda
