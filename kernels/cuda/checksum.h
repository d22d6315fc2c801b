// The checksum on a GPU: the contract of kernels/checksum.h on device pointers.
#pragma once

#include <cstdint>

#include "kernels/checksum.h"
#include "kernels/cuda/launch_status.h"

namespace carry::cuda {

// Elements of the workspace, which need not be initialised.
int64_t ChecksumWorkspace(int64_t floats);

// *out and the workspace are on the device.
LaunchStatus Checksum(const float* data, int64_t floats, uint64_t seed,
                      uint64_t* out, uint64_t* workspace, Stream stream);

}  // namespace carry::cuda
