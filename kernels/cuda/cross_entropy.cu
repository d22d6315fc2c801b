#include "kernels/check.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/device/element.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/reduce.cuh"

namespace carry::cuda {
namespace {

constexpr int kThreads = 256;
using Scratch = BlockScratch<float>;

struct LossArgs {
  int64_t vocab, stride;
  const float* logits;
  const int32_t* targets;
  float weight;
  AnyMatrixOut dlogits;  // data: or nullptr
  float* nll;
};

// grid (R).
__global__ void __launch_bounds__(kThreads)
    CrossEntropyKernel(const LossArgs args) {
  Scratch* scratch = DynamicShared<Scratch>();
  const int64_t row = blockIdx.x;
  const float* x = args.logits + row * args.stride;
  const int64_t target = args.targets[row];
  float max = -INFINITY;
  for (int64_t v = threadIdx.x; v < args.vocab; v += kThreads) {
    max = MaxOrNan(max, x[v]);
  }
  max = BlockMax(max, scratch);
  float sum = 0.0f;
  for (int64_t v = threadIdx.x; v < args.vocab; v += kThreads) {
    sum += Exp(x[v] - max);
  }
  sum = BlockSum(sum, scratch);
  if (threadIdx.x == 0) {
    args.nll[row] = target < 0 ? 0.0f : max - x[target] + logf(sum);
  }
  if (args.dlogits.data == nullptr) return;  // The whole grid.
  const float scale = target < 0 ? 0.0f : args.weight / sum;
  // The gradient may take the logits' place, at half their size: all threads
  // read a run of logits, and those before it were read, before any writes it.
  for (int64_t v0 = 0; v0 < args.vocab; v0 += kThreads) {
    const int64_t v = v0 + threadIdx.x;
    float g = 0.0f;
    if (v < args.vocab && target >= 0) {
      g = Exp(x[v] - max) * scale - (v == target ? args.weight : 0.0f);
    }
    __syncthreads();
    if (v < args.vocab) args.dlogits.Store(g, row, v);
  }
}

}  // namespace

LaunchStatus CrossEntropy(ConstMatView logits, const int32_t* targets,
                          float weight, MatView dlogits, float* nll,
                          Stream stream) {
  CARRY_CHECK(logits.dtype == DType::kF32);
  const LossArgs args = {
      logits.cols, logits.stride, static_cast<const float*>(logits.data),
      targets,     weight,        ToAny(dlogits),
      nll};
  return Launch("cross_entropy", CrossEntropyKernel, dim3(logits.rows),
                kThreads, sizeof(Scratch), stream, args);
}

}  // namespace carry::cuda
