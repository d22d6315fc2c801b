// Cross-entropy on a GPU: the contract of kernels/cross_entropy.h on device
// pointers. A block a row.
#pragma once

#include "kernels/cross_entropy.h"
#include "kernels/cuda/launch_status.h"

namespace carry::cuda {

LaunchStatus CrossEntropy(ConstMatView logits, const int32_t* targets,
                          float weight, MatView dlogits, float* nll,
                          Stream stream);

}  // namespace carry::cuda
