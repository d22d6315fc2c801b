// Functions of one float. Errors are those of the device; the host's variants
// are nearer.
#pragma once

#include "kernels/cuda/device/intrinsics.cuh"

namespace carry::cuda {

constexpr float kLog2E = 1.44269504089f;
constexpr float kLn2 = 0.69314718056f;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarpSize = 32;

// e^x: relative error 2^-22 (1 + |x| / 4); denormals are zero.
__device__ __forceinline__ float Exp(float x) { return Exp2(x * kLog2E); }

// 3 ulp for x > -87, 0 from -88 down.
__device__ __forceinline__ float Sigmoid(float x) {
  return Reciprocal(1.0f + Exp(-x));
}
__device__ __forceinline__ float Silu(float x) { return x * Sigmoid(x); }
// d silu / dx.
__device__ __forceinline__ float SiluSlope(float x, float sigmoid) {
  return sigmoid * (1.0f + x * (1.0f - sigmoid));
}

struct SoftplusAndSlope {
  float value, slope;  // slope: the sigmoid
};
// log(1 + e^x): relative error 4e-7 everywhere above -87, also where it is
// small, which log2 of a rounded 1 + e^x would not give. With q = e^-|x|,
//   log(1 + q) = 2 atanh(s), s = q / (2 + q) <= 1/3,
// and atanh's series to s^11; NaN comes through. Slope as Sigmoid.
__device__ __forceinline__ SoftplusAndSlope SoftplusWithSlope(float x) {
  const float q = Exp(-fabsf(x));
  const float s = q * Reciprocal(2.0f + q);
  const float s2 = s * s;
  float p = 1.0f / 11;
  p = p * s2 + 1.0f / 9;
  p = p * s2 + 1.0f / 7;
  p = p * s2 + 1.0f / 5;
  p = p * s2 + 1.0f / 3;
  p = p * s2 + 1.0f;
  const float r = Reciprocal(1.0f + q);
  return {(x < 0 ? 0.0f : x) + 2 * s * p, x < 0 ? q * r : r};
}
__device__ __forceinline__ float Softplus(float x) {
  return SoftplusWithSlope(x).value;
}

}  // namespace carry::cuda
