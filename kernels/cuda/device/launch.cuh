// The one way a kernel is started.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "kernels/cuda/launch_status.h"

namespace carry::cuda {

// Starts kernel(args...) on `stream`; arguments are converted to the kernel's
// parameter types. The error, if there is one, names `name`.
template <class... P, class... A>
LaunchStatus Launch(const char* name, void (*kernel)(P...), dim3 grid,
                    unsigned threads, size_t shared_bytes, Stream stream,
                    A&&... args) {
  constexpr size_t kWithoutAsking = 48 << 10;
  cudaError_t error = cudaSuccess;
  if (shared_bytes > kWithoutAsking) {
    error = cudaFuncSetAttribute(kernel,
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  }
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    error = cudaLaunchKernelEx(&config, kernel, P(std::forward<A>(args))...);
  }
  return {static_cast<int>(error), error == cudaSuccess ? nullptr : name};
}

}  // namespace carry::cuda
