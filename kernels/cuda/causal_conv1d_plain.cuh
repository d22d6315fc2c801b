// Segments of the convolution that are all alike inside: kConvSegment tokens,
// four taps, no document start, and for backward neither end of time near. A
// thread takes four channels side by side, so that loads, stores and pointers
// cost a quarter.
//
// With SiLU the weights and the bias are scaled by s = -log2 e, so that
// u = s v needs no factor before 2^u:
//   silu(v) = u / (s (1 + 2^u))
//   silu'(v) = q (1 + v (1 - q)),  q = 1 / (1 + 2^u)
// and backward accumulates gradients of u, whose factor s waits for the end.
#pragma once

#include "kernels/cuda/causal_conv1d.cuh"

namespace carry::cuda {

constexpr int kPlainTaps = 4;
// Tokens whose loads are on their way at once; the window need not move.
constexpr int kPlainRun = 8;
static_assert(kPlainRun % kPlainTaps == 0 && kConvSegment % kPlainRun == 0);

// Weights and the last inputs of four channels. Slot (t + k) % 4 holds input
// t - 3 + k.
template <bool kSilu>
struct PlainWindow {
  static constexpr float kScale = kSilu ? -kLog2E : 1.0f;
  static constexpr int kWidth = Four::kWidth;
  float w[kPlainTaps][kWidth], bias[kWidth], x[kPlainTaps][kWidth];

  // As it is before token t0.
  template <class T>
  __device__ __forceinline__ PlainWindow(const ConvInputs<T>& in, int64_t batch,
                                         int64_t e, int64_t t0) {
    constexpr int kHalo = kPlainTaps - 1;
    const float* weight = in.weight + e * kPlainTaps;
#pragma unroll
    for (int c = 0; c < kWidth; ++c) {
      bias[c] = in.bias == nullptr ? 0.0f : kScale * in.bias[e + c];
#pragma unroll
      for (int k = 0; k < kPlainTaps; ++k) {
        w[k][c] = kScale * weight[c * kPlainTaps + k];
        x[k][c] = 0.0f;
      }
    }
    if (t0 > 0) {
      const int64_t row = batch * in.time + t0 - kHalo;
      const T* at = in.x + row * in.x_stride + e;
#pragma unroll
      for (int t = 0; t < kHalo; ++t) {
        if (in.StartsAt(row + t)) Clear();
        Push(t - kHalo, LoadFour(at).Values());
        at += in.x_stride;
      }
    } else if (in.carry_in != nullptr) {
      const float* at = in.carry_in + (batch * in.channels + e) * kHalo;
#pragma unroll
      for (int c = 0; c < kWidth; ++c) {
#pragma unroll
        for (int t = 0; t < kHalo; ++t) x[t][c] = at[c * kHalo + t];
      }
    }
  }
  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int c = 0; c < kWidth; ++c) {
#pragma unroll
      for (int k = 0; k < kPlainTaps; ++k) x[k][c] = 0.0f;
    }
  }
  // Token t > -4; a multiple of 4 may be left off.
  __device__ __forceinline__ void Push(int t, const Four& value) {
#pragma unroll
    for (int c = 0; c < kWidth; ++c) {
      x[(t + kPlainTaps - 1) % kPlainTaps][c] = value.x[c];
    }
  }
  __device__ __forceinline__ float Convolve(int t, int c) const {
    float v = bias[c];
#pragma unroll
    for (int k = 0; k < kPlainTaps; ++k) {
      v += w[k][c] * x[(t + k) % kPlainTaps][c];
    }
    return v;
  }
};

template <bool kSilu, class T, class Y>
__device__ __forceinline__ void PlainForward(const ConvForwardArgs<T, Y>& args,
                                             int64_t batch, int64_t e,
                                             int64_t t0) {
  constexpr float kScale = -kLog2E;
  const ConvInputs<T>& in = args.in;
  PlainWindow<kSilu> window(in, batch, e, t0);
  const int64_t row0 = batch * in.time + t0;
  const T* x_at = in.x + row0 * in.x_stride + e;
  Y* y_at = args.y + row0 * args.y_stride + e;
#pragma unroll 1
  for (int run = 0; run < kConvSegment; run += kPlainRun) {
    FourOf<T> x[kPlainRun];
#pragma unroll
    for (int t = 0; t < kPlainRun; ++t) {
      x[t] = LoadFour(x_at);
      x_at += in.x_stride;
    }
#pragma unroll
    for (int t = 0; t < kPlainRun; ++t) {
      window.Push(t, x[t].Values());
      Four y;
#pragma unroll
      for (int c = 0; c < Four::kWidth; ++c) {
        const float u = window.Convolve(t, c);
        y.x[c] = kSilu ? u * Reciprocal(Exp2(u) * kScale + kScale) : u;
      }
      StoreFour(y, y_at);
      y_at += args.y_stride;
    }
  }
  if (args.carry_out == nullptr || t0 + kConvSegment != in.time) return;
  float* to = args.carry_out + (batch * in.channels + e) * (kPlainTaps - 1);
#pragma unroll
  for (int c = 0; c < Four::kWidth; ++c) {
#pragma unroll
    for (int k = 0; k + 1 < kPlainTaps; ++k) {
      to[c * (kPlainTaps - 1) + k] = window.x[k][c];
    }
  }
}

// Of four channels: gradients of inputs t - 3 .. t in slots as the window's,
// and of weights and bias.
struct PlainGradients {
  float x[kPlainTaps][Four::kWidth] = {}, w[kPlainTaps][Four::kWidth] = {},
        bias[Four::kWidth] = {};
};

// Token t. (kOwn) it adds to the gradients of the weights.
template <bool kSilu, bool kOwn>
__device__ __forceinline__ void PlainBackwardToken(int t, const Four& x,
                                                   const Four& dy,
                                                   PlainWindow<kSilu>* window,
                                                   PlainGradients* grad) {
  constexpr float kV = 1 / PlainWindow<kSilu>::kScale;  // v = kV u
  window->Push(t, x);
#pragma unroll
  for (int c = 0; c < Four::kWidth; ++c) {
    float du = dy.x[c];
    if (kSilu) {
      const float u = window->Convolve(t, c);
      const float q = Reciprocal(1.0f + Exp2(u));
      // kV q (1 + v (1 - q)) with v = kV u.
      du *= q * (fmaf(u, -q, u) * (kV * kV) + kV);
    }
    if (kOwn) grad->bias[c] += du;
#pragma unroll
    for (int k = 0; k < kPlainTaps; ++k) {
      const int slot = (t + k) % kPlainTaps;
      const float g = window->w[k][c] * du;
      grad->x[slot][c] = k + 1 < kPlainTaps ? grad->x[slot][c] + g : g;
      if (kOwn) grad->w[k][c] += du * window->x[slot][c];
    }
  }
}

template <bool kSilu, class T, class Y>
__device__ __forceinline__ void PlainBackward(
    const ConvBackwardArgs<T, Y>& args, int64_t batch, int64_t e, int64_t t0) {
  const ConvInputs<T>& in = args.in;
  PlainWindow<kSilu> window(in, batch, e, t0);
  PlainGradients grad;
  const int64_t row0 = batch * in.time + t0;
  const T* x_at = in.x + row0 * in.x_stride + e;
  const Y* dy_at = args.dy + row0 * args.dy_stride + e;
  T* dx_at = args.dx + row0 * args.dx_stride + e;
  constexpr int kRun = kPlainTaps, kHalo = kPlainTaps - 1;
  const auto store = [&](int slot) {
    Four dx;
#pragma unroll
    for (int c = 0; c < Four::kWidth; ++c) dx.x[c] = grad.x[slot][c];
    StoreFour(dx, dx_at);
    dx_at += args.dx_stride;
  };
#pragma unroll 1
  for (int run = 0; run < kConvSegment; run += kRun) {
    FourOf<T> x[kRun];
    FourOf<Y> dy[kRun];
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      x[t] = LoadFour(x_at);
      dy[t] = LoadFour(dy_at);
      x_at += in.x_stride;
      dy_at += args.dy_stride;
    }
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      PlainBackwardToken<kSilu, true>(t, x[t].Values(), dy[t].Values(), &window,
                                      &grad);
      // Nothing reaches input t - 3 any more; before t0 it is the neighbour's.
      if (t == kHalo || run > 0) store(t % kPlainTaps);
    }
  }
#pragma unroll
  for (int t = 0; t < kHalo; ++t) {
    PlainBackwardToken<kSilu, false>(t, LoadFour(x_at).Values(),
                                     LoadFour(dy_at).Values(), &window, &grad);
    store(t);
    x_at += in.x_stride;
    dy_at += args.dy_stride;
  }
  constexpr float kScale = PlainWindow<kSilu>::kScale;
  const int64_t part = batch * gridDim.x + t0 / kConvSegment;
  float* to = args.partial + part * (kPlainTaps + 1) * in.channels + e;
#pragma unroll
  for (int c = 0; c < Four::kWidth; ++c) {
#pragma unroll
    for (int k = 0; k < kPlainTaps; ++k) {
      to[k * in.channels + c] = kScale * grad.w[k][c];
    }
    to[kPlainTaps * in.channels + c] = kScale * grad.bias[c];
  }
}

// Whether a document starts at one of `count` rows. All lanes call.
template <class T>
__device__ __forceinline__ bool AnyStart(const ConvInputs<T>& in, int64_t row,
                                         int count) {
  if (in.document_start == nullptr) return false;
  bool any = false;
  for (int i = threadIdx.x % kWarpSize; i < count; i += kWarpSize) {
    any = any || in.document_start[row + i] != 0;
  }
  return __any_sync(kAllLanes, any) != 0;
}

}  // namespace carry::cuda
