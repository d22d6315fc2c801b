// Some of kernels/elementwise.h on a GPU.
#pragma once

#include "kernels/cuda/launch_status.h"
#include "kernels/elementwise.h"

namespace carry::cuda {

LaunchStatus Cast(const void* src, DType src_type, void* dst, DType dst_type,
                  int64_t n, Stream stream);
LaunchStatus AddTo(float* dst, const void* src, DType type, int64_t n,
                   Stream stream);
LaunchStatus Scale(float* x, float factor, int64_t n, Stream stream);
LaunchStatus Fill(float* x, float value, int64_t n, Stream stream);

}  // namespace carry::cuda
