// The one way a kernel is started.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels/cuda/launch_status.h"

namespace carry::cuda {

// Blocks for n elements of a kernel that loops with ForEach: enough to fill any
// GPU many times over, and no more than a grid may have.
inline dim3 GridFor(int64_t n, int64_t threads) {
  constexpr int64_t kMostBlocks = 1 << 14;
  return dim3(std::clamp<int64_t>((n + threads - 1) / threads, 1, kMostBlocks));
}

// Blocks of a reduction over n elements, which is as many partial results: some
// 8 elements a thread, and enough for any GPU.
inline int64_t PartsFor(int64_t n, int64_t threads) {
  constexpr int64_t kMostParts = 2048;
  return std::clamp<int64_t>((n + 8 * threads - 1) / (8 * threads), 1,
                             kMostParts);
}

// Blocks of `threads` over columns (x) and, for a loop over rows in steps of
// gridDim.y, of some 8 rows (y).
inline dim3 GridForMatrix(int64_t rows, int64_t cols, int64_t threads) {
  return dim3(std::max<int64_t>(1, (cols + threads - 1) / threads),
              std::clamp<int64_t>((rows + 7) / 8, 1, 65535));
}

// body(i) for every i < n, shared among the threads of a grid of GridFor.
template <class Body>
__device__ __forceinline__ void ForEach(int64_t n, const Body& body) {
  const int64_t step = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += step) {
    body(i);
  }
}

// body(row, col) for every element, in a grid of GridForMatrix.
template <class Body>
__device__ __forceinline__ void ForEachOf(int64_t rows, int64_t cols,
                                          const Body& body) {
  const int64_t col = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (col >= cols) return;  // No barriers here.
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) body(row, col);
}

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
