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

// Four elements side by side, aligned to their size, as they lie in memory.
struct Four {
  static constexpr int kWidth = 4;
  float x[kWidth];
};
template <class T>
struct FourOf;
template <>
struct FourOf<float> {
  float4 raw;
  __device__ __forceinline__ Four Values() const {
    return {{raw.x, raw.y, raw.z, raw.w}};
  }
};
template <>
struct FourOf<BFloat16> {
  uint2 raw;
  __device__ __forceinline__ Four Values() const {
    return {{BitsToFloat(raw.x << 16), BitsToFloat(raw.x & 0xffff0000u),
             BitsToFloat(raw.y << 16), BitsToFloat(raw.y & 0xffff0000u)}};
  }
};
template <class T>
__device__ __forceinline__ FourOf<T> LoadFour(const T* p) {
  return *reinterpret_cast<const FourOf<T>*>(p);
}
__device__ __forceinline__ void StoreFour(const Four& v, float* p) {
  *reinterpret_cast<float4*>(p) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
}
__device__ __forceinline__ void StoreFour(const Four& v, BFloat16* p) {
  uint2 raw;
  raw.x = RoundToBf16x2(v.x[0], v.x[1]);
  raw.y = RoundToBf16x2(v.x[2], v.x[3]);
  *reinterpret_cast<uint2*>(p) = raw;
}
// One or four fp32.
template <int kWidth>
__device__ __forceinline__ void LoadF32(const float* p, float* to) {
  if constexpr (kWidth == 1) {
    *to = *p;
  } else {
    const Four v = LoadFour(p).Values();
#pragma unroll
    for (int k = 0; k < kWidth; ++k) to[k] = v.x[k];
  }
}
template <int kWidth>
__device__ __forceinline__ void StoreF32(const float* x, float* p) {
  if constexpr (kWidth == 1) {
    *p = *x;
  } else {
    StoreFour({{x[0], x[1], x[2], x[3]}}, p);
  }
}
// Whether all rows of a view, or a row of n fp32, can be read by fours.
inline bool IsOfFours(const float* p, int64_t n) {
  return n % Four::kWidth == 0 &&
         reinterpret_cast<uintptr_t>(p) % sizeof(Four) == 0;
}
inline bool IsOfFours(const ConstMatView& v) {
  const int64_t size = Four::kWidth * SizeOf(v.dtype);
  return v.cols % Four::kWidth == 0 && v.stride % Four::kWidth == 0 &&
         reinterpret_cast<uintptr_t>(v.data) % size == 0;
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
  // One or four.
  template <int kWidth>
  __device__ __forceinline__ void Load(int64_t row, int64_t col,
                                       float* to) const {
    const int64_t at = row * stride + col;
    if constexpr (kWidth == 1) {
      *to = Load(row, col);
    } else {
      const Four v =
          bf16 ? LoadFour(static_cast<const BFloat16*>(data) + at).Values()
               : LoadFour(static_cast<const float*>(data) + at).Values();
#pragma unroll
      for (int k = 0; k < kWidth; ++k) to[k] = v.x[k];
    }
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
  template <int kWidth>
  __device__ __forceinline__ void Store(const float* x, int64_t row,
                                        int64_t col) const {
    const int64_t at = row * stride + col;
    if constexpr (kWidth == 1) {
      Store(*x, row, col);
    } else {
      const Four v = {{x[0], x[1], x[2], x[3]}};
      if (bf16) {
        StoreFour(v, static_cast<BFloat16*>(data) + at);
      } else {
        StoreFour(v, static_cast<float*>(data) + at);
      }
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
