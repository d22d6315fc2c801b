#include "kernels/cuda/adamw.h"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/reduce.cuh"

namespace carry::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) AdamWKernel(const AdamWArgs args) {
  ForEach(args.n, [&](int64_t i) {
    const float g = args.grad_scale * args.grad[i];
    const float m = args.beta1 * args.m[i] + (1 - args.beta1) * g;
    const float v = args.beta2 * args.v[i] + (1 - args.beta2) * g * g;
    const float w = args.weight[i];
    args.m[i] = m;
    args.v[i] = v;
    const float step =
        m / args.correction1 / (sqrtf(v / args.correction2) + args.eps);
    args.weight[i] = w - args.lr * (step + args.weight_decay * w);
  });
}

// Part p of all takes every `parts`-th run of kThreads elements.
__global__ void __launch_bounds__(kThreads)
    SumOfSquaresKernel(const float* x, int64_t n, double* partial) {
  auto* scratch = DynamicShared<BlockScratch<double>>();
  double sum = 0;
  ForEach(n, [&](int64_t i) { sum += static_cast<double>(x[i]) * x[i]; });
  sum = BlockSum(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    SumPartsKernel(const double* partial, int64_t parts, double* total) {
  auto* scratch = DynamicShared<BlockScratch<double>>();
  double sum = 0;
  for (int64_t i = threadIdx.x; i < parts; i += kThreads) sum += partial[i];
  sum = BlockSum(sum, scratch);
  if (threadIdx.x == 0) *total = sum;
}

}  // namespace

LaunchStatus AdamW(const AdamWArgs& args, Stream stream) {
  return Launch("adamw", AdamWKernel, GridFor(args.n, kThreads), kThreads, 0,
                stream, args);
}

int64_t SumOfSquaresWorkspace(int64_t n) { return PartsFor(n, kThreads); }

LaunchStatus SumOfSquares(const float* x, int64_t n, double* workspace,
                          double* sum, Stream stream) {
  const int64_t parts = SumOfSquaresWorkspace(n);
  const LaunchStatus status =
      Launch("sum_of_squares", SumOfSquaresKernel, dim3(parts), kThreads,
             sizeof(BlockScratch<double>), stream, x, n, workspace);
  if (!status.ok()) return status;
  return Launch("sum_of_squares_parts", SumPartsKernel, dim3(1), kThreads,
                sizeof(BlockScratch<double>), stream, workspace, parts, sum);
}

}  // namespace carry::cuda
