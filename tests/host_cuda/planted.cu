// Kernels with one bug each, at a line marked BUG and its name, which the host
// engine and the sanitizers must find: `planted NAME` runs that one. Without
// the bug (`planted NAME right`) every one of them is correct.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr unsigned kThreads = 64;

float* Shared() { return static_cast<float*>(host_cuda::SharedMemory()); }

// Reads what the neighbour in the block wrote.
__global__ void MissingBarrier(bool right, float* x) {
  float* shared = Shared();
  shared[threadIdx.x] = threadIdx.x;
  if (right) __syncthreads();
  x[threadIdx.x] = shared[(threadIdx.x + 33) % kThreads];  // BUG barrier
}

// Writes again what the neighbour may not have read yet.
__global__ void MissingSecondBarrier(bool right, float* x) {
  float* shared = Shared();
  for (int i = 0; i < 2; ++i) {
    shared[threadIdx.x] = threadIdx.x + i;
    __syncthreads();
    x[threadIdx.x] = shared[(threadIdx.x + 33) % kThreads];  // BUG rewrite
    if (right) __syncthreads();
  }
}

// Relies on a warp running in step.
__global__ void MissingWarpBarrier(bool right, float* x) {
  float* shared = Shared();
  shared[threadIdx.x] = threadIdx.x;
  if (right) __syncwarp();
  x[threadIdx.x] = shared[threadIdx.x ^ 1];  // BUG warp_barrier
}

// Blocks add to one place.
__global__ void BlocksCollide(bool right, float* x) {
  if (right && blockIdx.x != 0) return;
  x[threadIdx.x] += 1.0f;  // BUG blocks
}

__global__ void DivergentBarrier(bool right, float* x) {
  if (right || threadIdx.x < 40) {
    __syncthreads();  // BUG divergence
  }
  x[threadIdx.x] = 1.0f;
}

__global__ void TwoBarriers(bool right, float* x) {
  if (right || threadIdx.x < 32) {
    __syncthreads();  // BUG two_barriers
  } else {
    __syncthreads();
  }
  x[threadIdx.x] = 1.0f;
}

__global__ void Deadlock(bool right, float* x) {
  float v = threadIdx.x;
  if (right || threadIdx.x < 16) {
    v = __shfl_xor_sync(kAll, v, 1);  // BUG deadlock
  }
  __syncthreads();
  x[threadIdx.x] = v;
}

__global__ void LanesGone(bool right, float* x) {
  if (!right && threadIdx.x % 32 >= 20) return;
  x[threadIdx.x] = __shfl_xor_sync(kAll, threadIdx.x + 0.0f, 1);  // BUG lanes
}

__global__ void PartialMask(bool right, float* x) {
  const unsigned mask = right ? kAll : 0xffffu;
  x[threadIdx.x] = __shfl_xor_sync(mask, threadIdx.x + 0.0f, 1);  // BUG mask
}

__global__ void SharedOutOfBounds(bool right, float* x) {
  float* shared = Shared();
  shared[threadIdx.x + (right ? 0 : 1)] = 1.0f;  // BUG shared_bounds
  x[threadIdx.x] = 1.0f;
}

__global__ void GlobalOutOfBounds(bool right, float* x) {
  x[threadIdx.x + (right ? 0 : 1)] = 1.0f;  // BUG global_bounds
}

struct Planted {
  const char* name;
  void (*kernel)(bool, float*);
};
const Planted kPlanted[] = {
    {"barrier", MissingBarrier},
    {"rewrite", MissingSecondBarrier},
    {"warp_barrier", MissingWarpBarrier},
    {"blocks", BlocksCollide},
    {"divergence", DivergentBarrier},
    {"two_barriers", TwoBarriers},
    {"deadlock", Deadlock},
    {"lanes", LanesGone},
    {"mask", PartialMask},
    {"shared_bounds", SharedOutOfBounds},
    {"global_bounds", GlobalOutOfBounds},
};

}  // namespace

int main(int argc, char** argv) {
  for (const Planted& planted : kPlanted) {
    if (argc < 2 || std::strcmp(argv[1], planted.name) != 0) continue;
    void* x = nullptr;
    cudaMalloc(&x, kThreads * sizeof(float));
    std::memset(x, 0, kThreads * sizeof(float));
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(2);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = kThreads * sizeof(float);
    if (std::strcmp(planted.name, "blocks") != 0) config.gridDim = dim3(1);
    const cudaError_t error = cudaLaunchKernelEx(
        &config, planted.kernel, argc > 2, static_cast<float*>(x));
    cudaFree(x);
    if (error != cudaSuccess) return 3;
    std::puts("ran to its end");
    return 0;
  }
  std::fputs("usage: planted NAME [right]\n", stderr);
  return 2;
}
