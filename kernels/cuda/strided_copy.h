// A box of elements on a GPU: the contract of kernels/strided_copy.h on device
// pointers.
#pragma once

#include "kernels/cuda/launch_status.h"
#include "kernels/strided_copy.h"

namespace carry::cuda {

LaunchStatus StridedCopy(const StridedCopyArgs& args, Stream stream);

}  // namespace carry::cuda
