#include "kernels/cuda/checksum.h"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/reduce.cuh"

namespace carry::cuda {
namespace {

constexpr int kThreads = 256;
using Scratch = BlockScratch<uint64_t>;

__device__ __forceinline__ uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

__global__ void __launch_bounds__(kThreads)
    ChecksumKernel(const uint32_t* bits, int64_t n, uint64_t seed,
                   uint64_t* partial) {
  auto* scratch = DynamicShared<Scratch>();
  uint64_t sum = 0;
  ForEach(n, [&](int64_t i) {
    const uint64_t place = static_cast<uint64_t>(i) + 1;
    sum += Mix(Mix(seed + place * 0x9e3779b97f4a7c15u) + bits[i]);
  });
  sum = BlockSum(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// grid (1).
__global__ void __launch_bounds__(kThreads)
    ChecksumPartsKernel(const uint64_t* partial, int64_t parts, uint64_t* out) {
  auto* scratch = DynamicShared<Scratch>();
  uint64_t sum = 0;
  for (int64_t i = threadIdx.x; i < parts; i += kThreads) sum += partial[i];
  sum = BlockSum(sum, scratch);
  if (threadIdx.x == 0) *out = sum;
}

}  // namespace

int64_t ChecksumWorkspace(int64_t floats) { return PartsFor(floats, kThreads); }

LaunchStatus Checksum(const float* data, int64_t floats, uint64_t seed,
                      uint64_t* out, uint64_t* workspace, Stream stream) {
  const int64_t parts = ChecksumWorkspace(floats);
  const LaunchStatus status = Launch(
      "checksum", ChecksumKernel, dim3(parts), kThreads, sizeof(Scratch),
      stream, reinterpret_cast<const uint32_t*>(data), floats, seed, workspace);
  if (!status.ok()) return status;
  return Launch("checksum_parts", ChecksumPartsKernel, dim3(1), kThreads,
                sizeof(Scratch), stream, workspace, parts, out);
}

}  // namespace carry::cuda
