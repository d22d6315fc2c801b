#include "kernels/cuda/device/element.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/strided_copy.h"

namespace carry::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float Load(const StridedView& v, int64_t at) {
  return v.dtype == DType::kF32
             ? LoadF(static_cast<const float*>(v.data) + at)
             : LoadF(static_cast<const BFloat16*>(v.data) + at);
}

__device__ __forceinline__ void Store(float x, const StridedView& v,
                                      int64_t at) {
  if (v.dtype == DType::kF32) {
    StoreF(x, static_cast<float*>(v.data) + at);
  } else {
    StoreF(x, static_cast<BFloat16*>(v.data) + at);
  }
}

__device__ __forceinline__ int64_t At(const StridedView& v, int64_t i,
                                      int64_t j, int64_t k) {
  return i * v.stride[0] + j * v.stride[1] + k * v.stride[2];
}

__global__ void __launch_bounds__(kThreads)
    StridedCopyKernel(const StridedCopyArgs args) {
  ForEach(args.size[0] * args.size[1] * args.size[2], [&](int64_t n) {
    const int64_t ij = n / args.size[2], k = n % args.size[2];
    const int64_t i = ij / args.size[1], j = ij % args.size[1];
    const bool keep = args.src.data != nullptr &&
                      (args.keep == nullptr || args.keep[ij] != 0);
    float x = keep ? Load(args.src, At(args.src, i, j, k)) : 0.0f;
    const int64_t to = At(args.dst, i, j, k);
    if (args.write == Write::kAccumulate) x += Load(args.dst, to);
    Store(x, args.dst, to);
  });
}

}  // namespace

LaunchStatus StridedCopy(const StridedCopyArgs& args, Stream stream) {
  const int64_t n = args.size[0] * args.size[1] * args.size[2];
  if (n == 0) return {};
  return Launch("strided_copy", StridedCopyKernel, GridFor(n, kThreads),
                kThreads, 0, stream, args);
}

}  // namespace carry::cuda
