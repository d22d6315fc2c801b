#include <algorithm>

#include "kernels/cuda/device/element.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/rms_norm.h"

namespace carry::cuda {
namespace {

constexpr int kThreads = 128;
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

// kWidth: how many neighbours a thread takes. grid (R).
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    RmsNormForwardKernel(const ForwardArgs args) {
  Scratch* scratch = DynamicShared<Scratch>();
  const int64_t row = blockIdx.x;
  const float* residual = args.residual + row * args.dim;
  float* kept = args.sum == nullptr ? nullptr : args.sum + row * args.dim;
  const auto load_sum = [&](int64_t d, float* s) {
    LoadF32<kWidth>(residual + d, s);
    if (args.delta.data == nullptr) return;
    float delta[kWidth];
    args.delta.Load<kWidth>(row, d, delta);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) s[k] += delta[k];
  };
  constexpr int kStep = kThreads * kWidth;
  float squares = 0.0f;
  for (int64_t d = threadIdx.x * kWidth; d < args.dim; d += kStep) {
    float s[kWidth];
    load_sum(d, s);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) squares += s[k] * s[k];
    if (kept != nullptr) StoreF32<kWidth>(s, kept + d);
  }
  squares = BlockSum(squares, scratch);
  const float q = 1.0f / sqrtf(squares / args.dim + args.eps);
  for (int64_t d = threadIdx.x * kWidth; d < args.dim; d += kStep) {
    float s[kWidth], weight[kWidth];
    // The sum may have taken the residual's place.
    if (kept != nullptr) {
      LoadF32<kWidth>(kept + d, s);
    } else {
      load_sum(d, s);
    }
    LoadF32<kWidth>(args.weight + d, weight);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) s[k] *= q * weight[k];
    args.y.Store<kWidth>(s, row, d);
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
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    RmsNormBackwardKernel(const BackwardArgs args) {
  Scratch* scratch = DynamicShared<Scratch>();
  const int64_t row = blockIdx.x, row_at = row * args.dim;
  const float q = args.inv_rms[row];
  constexpr int kStep = kThreads * kWidth;
  // s, and weight dy.
  const auto load = [&](int64_t d, float* s, float* g) {
    float weight[kWidth];
    args.dy.Load<kWidth>(row, d, g);
    LoadF32<kWidth>(args.weight + d, weight);
    LoadF32<kWidth>(args.sum + row_at + d, s);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) g[k] *= weight[k];
  };
  float dot = 0.0f;
  for (int64_t d = threadIdx.x * kWidth; d < args.dim; d += kStep) {
    float s[kWidth], g[kWidth];
    load(d, s, g);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) dot += g[k] * s[k];
  }
  const float mean = BlockSum(dot, scratch) / args.dim;
  for (int64_t d = threadIdx.x * kWidth; d < args.dim; d += kStep) {
    float s[kWidth], g[kWidth], ds[kWidth];
    load(d, s, g);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      ds[k] = q * (g[k] - s[k] * q * q * mean);
    }
    if (args.dsum != nullptr) {
      float dsum[kWidth];
      LoadF32<kWidth>(args.dsum + row_at + d, dsum);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) ds[k] += dsum[k];
    }
    StoreF32<kWidth>(ds, args.dresidual + row_at + d);
    if (args.ddelta.data != nullptr) args.ddelta.Store<kWidth>(ds, row, d);
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
  const int64_t dim = args.y.cols;
  const bool fours = IsOfFours(args.residual, dim) &&
                     IsOfFours(args.weight, dim) && IsOfFours(args.sum, dim) &&
                     IsOfFours(args.y) &&
                     (args.delta.data == nullptr || IsOfFours(args.delta));
  return Launch("rms_norm_forward",
                fours ? RmsNormForwardKernel<4> : RmsNormForwardKernel<1>,
                dim3(args.y.rows), kThreads, sizeof(Scratch), stream, forward);
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
  const bool fours = IsOfFours(args.dy) && IsOfFours(args.weight, dim) &&
                     IsOfFours(args.sum, dim) && IsOfFours(args.dsum, dim) &&
                     IsOfFours(args.dresidual, dim) &&
                     (args.ddelta.data == nullptr || IsOfFours(args.ddelta));
  LaunchStatus status =
      Launch("rms_norm_backward",
             fours ? RmsNormBackwardKernel<4> : RmsNormBackwardKernel<1>,
             dim3(rows), kThreads, sizeof(Scratch), stream, backward);
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
