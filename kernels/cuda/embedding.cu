#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/math.cuh"
#include "kernels/cuda/embedding.h"

namespace carry::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;

// grid (R).
__global__ void __launch_bounds__(kThreads)
    EmbeddingForwardKernel(const int32_t* tokens, const float* table,
                           int64_t dim, float* out) {
  const int64_t row = blockIdx.x;
  const float* from = table + tokens[row] * dim;
  for (int64_t d = threadIdx.x; d < dim; d += kThreads) {
    out[row * dim + d] = from[d];
  }
}

struct Matches {
  unsigned lanes[kWarps];
};

// grid (V).
__global__ void __launch_bounds__(kThreads)
    EmbeddingBackwardKernel(const int32_t* tokens, int64_t rows,
                            const float* dout, int64_t dim, float* dtable) {
  Matches* matches = DynamicShared<Matches>();
  const int token = static_cast<int>(blockIdx.x);
  float* to = dtable + token * dim;
  for (int64_t r0 = 0; r0 < rows; r0 += kThreads) {
    const int64_t r = r0 + threadIdx.x;
    const unsigned lanes =
        __ballot_sync(kAllLanes, r < rows && tokens[r] == token);
    __syncthreads();  // Of the run before.
    if (threadIdx.x % kWarpSize == 0) {
      matches->lanes[threadIdx.x / kWarpSize] = lanes;
    }
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) {
      for (unsigned left = matches->lanes[w]; left != 0; left &= left - 1) {
        const float* from = dout + (r0 + w * kWarpSize + __ffs(left) - 1) * dim;
        for (int64_t d = threadIdx.x; d < dim; d += kThreads) to[d] += from[d];
      }
    }
  }
}

}  // namespace

LaunchStatus EmbeddingForward(const int32_t* tokens, int64_t rows,
                              const float* table, int64_t dim, float* out,
                              Stream stream) {
  return Launch("embedding_forward", EmbeddingForwardKernel, dim3(rows),
                kThreads, 0, stream, tokens, table, dim, out);
}

LaunchStatus EmbeddingBackward(const int32_t* tokens, int64_t rows,
                               const float* dout, int64_t vocab, int64_t dim,
                               float* dtable, Stream stream) {
  return Launch("embedding_backward", EmbeddingBackwardKernel, dim3(vocab),
                kThreads, sizeof(Matches), stream, tokens, rows, dout, dim,
                dtable);
}

}  // namespace carry::cuda
