// What differs between nvcc and a host compiler: instructions that C++ has no
// word for, each with a plain variant, and dynamic shared memory. Nothing else
// in kernels/cuda looks at the compiler.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "kernels/types.h"

namespace carry::cuda {

#ifdef __CUDACC__

// 2^x: 2 ulp, denormals are zero.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 1 / x: 1 ulp; 0 for infinite x, and for |x| > 2^126.
__device__ __forceinline__ float Reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// log2 x: absolute error 2^-22 near 1, else 2 ulp.
__device__ __forceinline__ float Log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float BitsToFloat(uint32_t bits) {
  return __uint_as_float(bits);
}
// Rounds to nearest even, NaN stays NaN.
__device__ __forceinline__ BFloat16 RoundToBf16(float x) {
  BFloat16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
// Two at once; `low` in the lower half.
__device__ __forceinline__ uint32_t RoundToBf16x2(float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
// The block's dynamic shared memory.
template <class T>
__device__ __forceinline__ T* DynamicShared() {
  extern __shared__ __align__(16) unsigned char carry_shared_memory[];
  return reinterpret_cast<T*>(carry_shared_memory);
}

#else

inline float Exp2(float x) { return std::exp2(x); }
inline float Reciprocal(float x) { return 1 / x; }
inline float Log2(float x) { return std::log2(x); }
inline float BitsToFloat(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline BFloat16 RoundToBf16(float x) { return ToBFloat16(x); }
inline uint32_t RoundToBf16x2(float low, float high) {
  return ToBFloat16(low).bits | static_cast<uint32_t>(ToBFloat16(high).bits)
                                    << 16;
}
template <class T>
T* DynamicShared() {
  return static_cast<T*>(host_cuda::SharedMemory());
}

#endif

}  // namespace carry::cuda
