// What the convolution's kernels share: inputs, arguments, and the window of
// one channel.
#pragma once

#include "kernels/cuda/causal_conv1d.h"
#include "kernels/cuda/device/element.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/math.cuh"

namespace carry::cuda {

constexpr int kConvThreads = 128;

template <class T>
struct ConvInputs {
  int64_t time, channels;
  int taps;
  bool silu;
  const T* x;
  int64_t x_stride;
  const float *weight, *bias, *carry_in;
  const uint8_t* document_start;

  __device__ __forceinline__ bool StartsAt(int64_t row) const {
    return document_start != nullptr && document_start[row] != 0;
  }
};

// A channel's last inputs, the newest last. kTaps is K = 4, or 8 for any other
// K; then the oldest 8 - K are kept at 0.
template <class T, int kTaps>
struct ConvWindow {
  float w[kTaps], x[kTaps], bias;
  int pad, reach;  // reach: how many of x, from the last, token t may see

  // As it is before token t0.
  __device__ __forceinline__ ConvWindow(const ConvInputs<T>& in, int64_t batch,
                                        int64_t e, int64_t t0)
      : pad(kTaps - in.taps), reach(kTaps) {
    bias = in.bias == nullptr ? 0.0f : in.bias[e];
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      w[k] = k < pad ? 0.0f : in.weight[e * in.taps + k - pad];
      x[k] = 0.0f;
    }
    const int halo = in.taps - 1;
    for (int64_t t = t0 - halo; t < t0; ++t) {
      const int64_t row = batch * in.time + t;
      float value = 0.0f;
      if (t >= 0) {
        value = LoadF(in.x + row * in.x_stride + e);
      } else if (in.carry_in != nullptr) {
        value = in.carry_in[(batch * in.channels + e) * halo + t + halo];
      }
      Push(value, t >= 0 && in.StartsAt(row));
    }
  }

  __device__ __forceinline__ void Push(float value, bool start) {
#pragma unroll
    for (int k = 0; k + 1 < kTaps; ++k) {
      x[k] = kTaps != 4 && k < pad ? 0.0f : x[k + 1];
    }
    x[kTaps - 1] = value;
    reach = reach < kTaps ? reach + 1 : kTaps;
    if (start) {
      reach = 1;
#pragma unroll
      for (int k = 0; k + 1 < kTaps; ++k) x[k] = 0.0f;
    }
  }

  __device__ __forceinline__ float Convolve() const {
    float v = bias;
#pragma unroll
    for (int k = 0; k < kTaps; ++k) v += w[k] * x[k];
    return v;
  }
};

template <class T, class Y>
struct ConvForwardArgs {
  ConvInputs<T> in;
  Y* y;
  int64_t y_stride;
  float* carry_out;
};

template <class T, class Y>
struct ConvBackwardArgs {
  ConvInputs<T> in;
  const Y* dy;
  T* dx;
  int64_t dy_stride, dx_stride;
  const float* dcarry_out;
  float* dcarry_in;
  float* partial;  // [B, segments, K + 1, E]: dweight, dbias
};

}  // namespace carry::cuda
