// Elements of fp32 or bf16 in memory; arithmetic is fp32.
#pragma once

#include "kernels/cuda/device/intrinsics.cuh"

namespace carry::cuda {

__device__ __forceinline__ float LoadF(const float* p) { return *p; }
__device__ __forceinline__ float LoadF(const BFloat16* p) {
  return BitsToFloat(static_cast<uint32_t>(p->bits) << 16);
}
__device__ __forceinline__ void StoreF(float x, float* p) { *p = x; }
__device__ __forceinline__ void StoreF(float x, BFloat16* p) {
  *p = RoundToBf16(x);
}

// A matrix whose element type is known at run time only: for loads that are
// few. Rows are `stride` elements apart.
struct AnyMatrix {
  const void* data;
  int64_t stride;
  bool bf16;

  __device__ __forceinline__ float Load(int64_t row, int64_t col) const {
    const int64_t at = row * stride + col;
    return bf16 ? LoadF(static_cast<const BFloat16*>(data) + at)
                : LoadF(static_cast<const float*>(data) + at);
  }
};
struct AnyMatrixOut {
  void* data;
  int64_t stride;
  bool bf16;

  __device__ __forceinline__ void Store(float x, int64_t row,
                                        int64_t col) const {
    const int64_t at = row * stride + col;
    if (bf16) {
      StoreF(x, static_cast<BFloat16*>(data) + at);
    } else {
      StoreF(x, static_cast<float*>(data) + at);
    }
  }
};
inline AnyMatrix ToAny(const ConstMatView& v) {
  return {v.data, v.stride, v.dtype == DType::kBF16};
}
inline AnyMatrixOut ToAny(const MatView& v) {
  return {v.data, v.stride, v.dtype == DType::kBF16};
}

}  // namespace carry::cuda
