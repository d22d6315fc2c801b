#include "kernels/cuda/device/element.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/elementwise.h"

namespace carry::cuda {
namespace {

constexpr int kThreads = 256;

template <class From, class To>
__global__ void __launch_bounds__(kThreads)
    CastKernel(const From* src, To* dst, int64_t n) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < n) StoreF(LoadF(src + i), dst + i);
}

template <class From>
__global__ void __launch_bounds__(kThreads)
    AddToKernel(float* dst, const From* src, int64_t n) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < n) dst[i] += LoadF(src + i);
}

__global__ void __launch_bounds__(kThreads)
    ScaleKernel(float* x, float factor, int64_t n) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < n) x[i] *= factor;
}

__global__ void __launch_bounds__(kThreads)
    FillKernel(float* x, float value, int64_t n) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < n) x[i] = value;
}

dim3 Grid(int64_t n) { return dim3((n + kThreads - 1) / kThreads); }

template <class From>
LaunchStatus CastFrom(const void* src, void* dst, DType dst_type, int64_t n,
                      Stream stream) {
  const auto* from = static_cast<const From*>(src);
  if (dst_type == DType::kBF16) {
    return Launch("cast", CastKernel<From, BFloat16>, Grid(n), kThreads, 0,
                  stream, from, static_cast<BFloat16*>(dst), n);
  }
  return Launch("cast", CastKernel<From, float>, Grid(n), kThreads, 0, stream,
                from, static_cast<float*>(dst), n);
}

}  // namespace

LaunchStatus Cast(const void* src, DType src_type, void* dst, DType dst_type,
                  int64_t n, Stream stream) {
  return src_type == DType::kBF16
             ? CastFrom<BFloat16>(src, dst, dst_type, n, stream)
             : CastFrom<float>(src, dst, dst_type, n, stream);
}

LaunchStatus AddTo(float* dst, const void* src, DType type, int64_t n,
                   Stream stream) {
  if (type == DType::kBF16) {
    return Launch("add_to", AddToKernel<BFloat16>, Grid(n), kThreads, 0, stream,
                  dst, static_cast<const BFloat16*>(src), n);
  }
  return Launch("add_to", AddToKernel<float>, Grid(n), kThreads, 0, stream, dst,
                static_cast<const float*>(src), n);
}

LaunchStatus Scale(float* x, float factor, int64_t n, Stream stream) {
  return Launch("scale", ScaleKernel, Grid(n), kThreads, 0, stream, x, factor,
                n);
}

LaunchStatus Fill(float* x, float value, int64_t n, Stream stream) {
  return Launch("fill", FillKernel, Grid(n), kThreads, 0, stream, x, value, n);
}

}  // namespace carry::cuda
