#include <algorithm>

#include "kernels/cuda/device/element.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/rms_norm.h"

namespace carry::cuda {
namespace {

constexpr int kThreads = 256;
using Scratch = BlockScratch<float>;

struct ForwardArgs {
  int64_t dim;
  float eps;
  const float* residual;
  AnyMatrix delta;  // data: or nullptr
  const float* weight;
  float* sum;
  AnyMatrixOut y;
  float* inv_rms;
};

// grid (R).
__global__ void __launch_bounds__(kThreads)
    RmsNormForwardKernel(const ForwardArgs args) {
  Scratch* scratch = DynamicShared<Scratch>();
  const int64_t row = blockIdx.x;
  const auto sum_at = [&](int64_t d) {
    const float s = args.residual[row * args.dim + d];
    return args.delta.data == nullptr ? s : s + args.delta.Load(row, d);
  };
  float squares = 0.0f;
  for (int64_t d = threadIdx.x; d < args.dim; d += kThreads) {
    const float s = sum_at(d);
    squares += s * s;
    if (args.sum != nullptr) args.sum[row * args.dim + d] = s;
  }
  squares = BlockSum(squares, scratch);
  const float q = 1.0f / sqrtf(squares / args.dim + args.eps);
  for (int64_t d = threadIdx.x; d < args.dim; d += kThreads) {
    // The sum may have taken the residual's place.
    const float s =
        args.sum != nullptr ? args.sum[row * args.dim + d] : sum_at(d);
    args.y.Store(s * q * args.weight[d], row, d);
  }
  if (args.inv_rms != nullptr && threadIdx.x == 0) args.inv_rms[row] = q;
}

struct BackwardArgs {
  int64_t rows, dim;
  AnyMatrix dy;
  const float *dsum, *sum, *inv_rms, *weight;
  float* dresidual;
  AnyMatrixOut ddelta;  // data: or nullptr
};

// grid (R).
__global__ void __launch_bounds__(kThreads)
    RmsNormBackwardKernel(const BackwardArgs args) {
  Scratch* scratch = DynamicShared<Scratch>();
  const int64_t row = blockIdx.x;
  const float q = args.inv_rms[row];
  float dot = 0.0f;
  for (int64_t d = threadIdx.x; d < args.dim; d += kThreads) {
    dot += args.dy.Load(row, d) * args.weight[d] * args.sum[row * args.dim + d];
  }
  const float mean = BlockSum(dot, scratch) / args.dim;
  for (int64_t d = threadIdx.x; d < args.dim; d += kThreads) {
    const int64_t at = row * args.dim + d;
    float ds = q * (args.dy.Load(row, d) * args.weight[d] -
                    args.sum[at] * q * q * mean);
    if (args.dsum != nullptr) ds += args.dsum[at];
    args.dresidual[at] = ds;
    if (args.ddelta.data != nullptr) args.ddelta.Store(ds, row, d);
  }
}

// Of a range of rows. grid (D, ranges).
__global__ void __launch_bounds__(kThreads)
    RmsNormWeightKernel(const BackwardArgs args, int64_t range,
                        float* partial) {
  const int64_t d = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (d >= args.dim) return;  // No barriers here.
  const int64_t begin = blockIdx.y * range;
  const int64_t end = begin + range < args.rows ? begin + range : args.rows;
  float sum = 0.0f;
  for (int64_t row = begin; row < end; ++row) {
    sum +=
        args.dy.Load(row, d) * args.sum[row * args.dim + d] * args.inv_rms[row];
  }
  partial[blockIdx.y * args.dim + d] = sum;
}

// grid (D).
__global__ void __launch_bounds__(kThreads)
    RmsNormSumKernel(int64_t dim, int64_t ranges, const float* partial,
                     float* dweight) {
  const int64_t d = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (d >= dim) return;
  float sum = 0.0f;
  for (int64_t k = 0; k < ranges; ++k) sum += partial[k * dim + d];
  dweight[d] += sum;
}

// Rows of a range: few partial sums, yet enough blocks for a large R.
int64_t RowRange(int64_t rows) { return std::max<int64_t>(32, rows / 256); }
int64_t Ranges(int64_t rows) {
  return (rows + RowRange(rows) - 1) / RowRange(rows);
}

}  // namespace

LaunchStatus RmsNormForward(const RmsNormForwardArgs& args, Stream stream) {
  const ForwardArgs forward = {args.y.cols,       args.eps,    args.residual,
                               ToAny(args.delta), args.weight, args.sum,
                               ToAny(args.y),     args.inv_rms};
  return Launch("rms_norm_forward", RmsNormForwardKernel, dim3(args.y.rows),
                kThreads, sizeof(Scratch), stream, forward);
}

int64_t RmsNormBackwardWorkspace(int64_t rows, int64_t dim) {
  return Ranges(rows) * dim;
}

LaunchStatus RmsNormBackward(const RmsNormBackwardArgs& args, float* workspace,
                             Stream stream) {
  const int64_t rows = args.dy.rows, dim = args.dy.cols;
  const BackwardArgs backward = {
      rows,         dim,         ToAny(args.dy), args.dsum,         args.sum,
      args.inv_rms, args.weight, args.dresidual, ToAny(args.ddelta)};
  LaunchStatus status =
      Launch("rms_norm_backward", RmsNormBackwardKernel, dim3(rows), kThreads,
             sizeof(Scratch), stream, backward);
  if (!status.ok()) return status;
  const unsigned blocks = (dim + kThreads - 1) / kThreads;
  status =
      Launch("rms_norm_weight", RmsNormWeightKernel, dim3(blocks, Ranges(rows)),
             kThreads, 0, stream, backward, RowRange(rows), workspace);
  if (!status.ok()) return status;
  return Launch("rms_norm_sum", RmsNormSumKernel, dim3(blocks), kThreads, 0,
                stream, dim, Ranges(rows), workspace, args.dweight);
}

}  // namespace carry::cuda
