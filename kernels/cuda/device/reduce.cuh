// Sums and maxima over a warp or a block, in an order that depends on the block
// size alone. All threads of the block call; all get the result.
#pragma once

#include "kernels/cuda/device/math.cuh"

namespace carry::cuda {

template <class T>
__device__ __forceinline__ T WarpSum(T x) {
#pragma unroll
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, lanes);
  }
  return x;
}

// NaN wins.
__device__ __forceinline__ float MaxOrNan(float a, float b) {
  return !(a >= b) ? (a != a ? a : b) : a;
}
__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
    x = MaxOrNan(x, __shfl_xor_sync(kAllLanes, x, lanes));
  }
  return x;
}

// Room for one value a warp, in shared memory.
template <class T>
struct BlockScratch {
  T warps[32];
};

template <class T>
__device__ __forceinline__ T BlockSum(T x, BlockScratch<T>* scratch) {
  x = WarpSum(x);
  __syncthreads();  // Of an earlier use.
  if (threadIdx.x % kWarpSize == 0) scratch->warps[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  T sum = 0;
  for (unsigned w = 0; w < blockDim.x / kWarpSize; ++w)
    sum += scratch->warps[w];
  return sum;
}
__device__ __forceinline__ float BlockMax(float x,
                                          BlockScratch<float>* scratch) {
  x = WarpMax(x);
  __syncthreads();  // Of an earlier use.
  if (threadIdx.x % kWarpSize == 0) scratch->warps[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  float max = scratch->warps[0];
  for (unsigned w = 1; w < blockDim.x / kWarpSize; ++w) {
    max = MaxOrNan(max, scratch->warps[w]);
  }
  return max;
}

// The smallest. Threads that have nothing give one that is too large.
__device__ __forceinline__ int64_t BlockMin(int64_t x,
                                            BlockScratch<int64_t>* scratch) {
#pragma unroll
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
    const int64_t other = __shfl_xor_sync(kAllLanes, x, lanes);
    x = other < x ? other : x;
  }
  __syncthreads();  // Of an earlier use.
  if (threadIdx.x % kWarpSize == 0) scratch->warps[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  int64_t min = scratch->warps[0];
  for (unsigned w = 1; w < blockDim.x / kWarpSize; ++w) {
    min = scratch->warps[w] < min ? scratch->warps[w] : min;
  }
  return min;
}

}  // namespace carry::cuda
