// What a .cu file of this project needs of CUDA, as plain C++: stands in for
// the toolkit's header of the same name when the host compiles kernels for
// itself. Streams are in order at once: every call has ended when it returns.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>

#include "tests/host_cuda/shim/engine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1)  // NOLINT
      : x(x), y(y), z(z) {}
};

namespace host_cuda {
template <auto Which, auto Axis>
struct AxisOf {
  operator unsigned() const { return current_thread->*Which.*Axis; }  // NOLINT
};
template <auto Which>
struct IndexOf {
  AxisOf<Which, &Index3::x> x;
  AxisOf<Which, &Index3::y> y;
  AxisOf<Which, &Index3::z> z;
};
}  // namespace host_cuda
inline constexpr host_cuda::IndexOf<&host_cuda::ThreadIndices::thread>
    threadIdx;
inline constexpr host_cuda::IndexOf<&host_cuda::ThreadIndices::block> blockIdx;
inline constexpr host_cuda::IndexOf<&host_cuda::ThreadIndices::block_size>
    blockDim;
inline constexpr host_cuda::IndexOf<&host_cuda::ThreadIndices::grid_size>
    gridDim;

// Where a call stands in the source, for messages.
#define HOST_CUDA_SITE \
  const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(HOST_CUDA_SITE) {
  host_cuda::BlockBarrier(file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, HOST_CUDA_SITE) {
  host_cuda::WarpExchange(host_cuda::WarpOp::kBarrier, mask, 0, 0, file, line);
}

namespace host_cuda {

template <class T>
T ShuffleFrom(unsigned mask, T value, int source, const char* file, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = WarpExchange(WarpOp::kShuffle, mask, bits, source, file, line);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
// `source` if it is in the lane's segment of `width`, else the lane itself.
inline int InSegment(int source, int width) {
  const int lane = Lane();
  return source >= 0 && source / width == lane / width ? source : lane;
}

}  // namespace host_cuda

template <class T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32, HOST_CUDA_SITE) {
  const int first = host_cuda::Lane() / width * width;
  return host_cuda::ShuffleFrom(mask, v, first + (source & (width - 1)), file,
                                line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int lane_mask, int width = 32,
                  HOST_CUDA_SITE) {
  const int source = host_cuda::Lane() ^ lane_mask;
  return host_cuda::ShuffleFrom(mask, v, host_cuda::InSegment(source, width),
                                file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32,
                 HOST_CUDA_SITE) {
  const int source = host_cuda::Lane() - static_cast<int>(delta);
  return host_cuda::ShuffleFrom(mask, v, host_cuda::InSegment(source, width),
                                file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32,
                   HOST_CUDA_SITE) {
  const int source = host_cuda::Lane() + static_cast<int>(delta);
  return host_cuda::ShuffleFrom(mask, v, host_cuda::InSegment(source, width),
                                file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return static_cast<unsigned>(host_cuda::WarpExchange(
      host_cuda::WarpOp::kBallot, mask, predicate != 0, 0, file, line));
}
inline int __any_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return __ballot_sync(mask, predicate, file, line) == 0xffffffffu;
}

template <class T>
T atomicAdd(T* address, T value) {
  T before;
  __atomic_load(address, &before, __ATOMIC_RELAXED);
  T after = before + value;
  while (!__atomic_compare_exchange(address, &before, &after, true,
                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    after = before + value;
  }
  return before;
}
template <class T>
T atomicMin(T* address, T value) {
  T before = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (value < before &&
         !__atomic_compare_exchange_n(address, &before, value, true,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return before;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T>
T __ldg(const T* p) {
  return *p;
}

// --- The runtime ------------------------------------------------------------

enum cudaError_t {  // The numbers are CUDA's.
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
};
using cudaStream_t = struct CUstream_st*;
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
};

namespace host_cuda {
constexpr size_t kSharedByDefault = 48 << 10;
constexpr size_t kSharedAtMost = 99 << 10;  // Of sm_120, the least of all.

// Most dynamic shared memory that launches of `kernel` may ask for.
size_t& SharedLimit(const void* kernel);
bool CanLaunch(const cudaLaunchConfig_t& config, const void* kernel);
}  // namespace host_cuda

template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute,
                                 int value) {
  if (value < 0 || static_cast<size_t>(value) > host_cuda::kSharedAtMost) {
    return cudaErrorInvalidValue;
  }
  host_cuda::SharedLimit(reinterpret_cast<const void*>(kernel)) = value;
  return cudaSuccess;
}

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config,
                               void (*kernel)(P...), A&&... args) {
  if (!host_cuda::CanLaunch(*config, reinterpret_cast<const void*>(kernel))) {
    return cudaErrorInvalidConfiguration;
  }
  using Call = std::pair<void (*)(P...), std::tuple<P...>>;
  const Call call(kernel, std::tuple<P...>(std::forward<A>(args)...));
  const dim3 &grid = config->gridDim, &block = config->blockDim;
  host_cuda::RunGrid(
      {grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
      config->dynamicSmemBytes,
      [](const void* arg) {
        const Call& c = *static_cast<const Call*>(arg);
        std::apply(c.first, c.second);
      },
      &call);
  return cudaSuccess;
}

inline cudaError_t cudaMalloc(void** p, size_t bytes) {
  *p = std::malloc(bytes);  // Exactly its size, as shared memory is.
  return *p == nullptr && bytes > 0 ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes,
                              cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes,
                                   cudaStream_t) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid launch";
}
