#include "kernels/check.h"
#include "kernels/cuda/causal_conv1d.h"
#include "kernels/cuda/device/element.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/math.cuh"

namespace carry::cuda {
namespace {

constexpr int kThreads = 128;

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
struct Window {
  float w[kTaps], x[kTaps], bias;
  int pad, reach;  // reach: how many of x, from the last, token t may see

  // As it is before token t0.
  __device__ __forceinline__ Window(const ConvInputs<T>& in, int64_t batch,
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
struct ForwardArgs {
  ConvInputs<T> in;
  Y* y;
  int64_t y_stride;
  float* carry_out;
};

// grid (channels, segments, B).
template <class T, class Y, int kTaps>
__global__ void __launch_bounds__(kThreads, 8)
    CausalConv1dForwardKernel(const ForwardArgs<T, Y> args) {
  const ConvInputs<T>& in = args.in;
  const int64_t e = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (e >= in.channels) return;  // No barriers here.
  const int64_t batch = blockIdx.z, t0 = blockIdx.y * kConvSegment;
  const int64_t end = t0 + kConvSegment < in.time ? t0 + kConvSegment : in.time;
  Window<T, kTaps> window(in, batch, e, t0);
  const int64_t row0 = batch * in.time + t0;
  const T* x_at = in.x + row0 * in.x_stride + e;
  Y* y_at = args.y + row0 * args.y_stride + e;
  const int rows = static_cast<int>(end - t0);
  constexpr int kRun = 8;  // A multiple of kTaps: the window need not move.
  for (int run = 0; run < rows; run += kRun) {
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      if (run + k >= rows) break;
      window.Push(LoadF(x_at), in.StartsAt(row0 + run + k));
      const float v = window.Convolve();
      StoreF(in.silu ? Silu(v) : v, y_at);
      x_at += in.x_stride;
      y_at += args.y_stride;
    }
  }
  if (args.carry_out != nullptr && end == in.time) {
    float* to = args.carry_out + (batch * in.channels + e) * (in.taps - 1);
#pragma unroll
    for (int k = 1; k < kTaps; ++k) {
      if (k > window.pad) to[k - window.pad - 1] = window.x[k];
    }
  }
}

template <class T, class Y>
struct BackwardArgs {
  ConvInputs<T> in;
  const Y* dy;
  T* dx;
  int64_t dy_stride, dx_stride;
  const float* dcarry_out;
  float* dcarry_in;
  float* partial;  // [B, segments, K + 1, E]: dweight, dbias
};

// Where the gradient of input s of a channel goes, s < 0: the carry.
template <class T, class Y>
__device__ __forceinline__ void StoreInputGradient(
    const BackwardArgs<T, Y>& args, int64_t batch, int64_t e, int64_t s,
    int64_t last_start, float g) {
  const ConvInputs<T>& in = args.in;
  const int halo = in.taps - 1;
  const int64_t carried = s - (in.time - halo);
  if (carried >= 0 && last_start <= s && args.dcarry_out != nullptr) {
    g += args.dcarry_out[(batch * in.channels + e) * halo + carried];
  }
  if (s >= 0) {
    StoreF(g, args.dx + (batch * in.time + s) * args.dx_stride + e);
  } else if (args.dcarry_in != nullptr) {
    args.dcarry_in[(batch * in.channels + e) * halo + s + halo] = g;
  }
}

// grid (channels, segments, B). A segment writes the gradients of its inputs,
// the first those of the carry too, and sums dweight over its tokens; tokens on
// its right it computes for what they give to its inputs.
template <class T, class Y, int kTaps>
__global__ void __launch_bounds__(kThreads)
    CausalConv1dBackwardKernel(const BackwardArgs<T, Y> args) {
  const ConvInputs<T>& in = args.in;
  const int64_t e = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (e >= in.channels) return;  // No barriers here.
  const int64_t batch = blockIdx.z, t0 = blockIdx.y * kConvSegment;
  const int64_t end = t0 + kConvSegment < in.time ? t0 + kConvSegment : in.time;
  const int64_t first_s = t0 == 0 ? 1 - in.taps : t0;
  Window<T, kTaps> window(in, batch, e, t0);
  // Of input t - kTaps + 1 + k.
  float g[kTaps], dw[kTaps], dbias = 0.0f;
#pragma unroll
  for (int k = 0; k < kTaps; ++k) g[k] = dw[k] = 0.0f;
  int64_t last_start = -kTaps;
  for (int64_t t = t0; t < end + kTaps - 1; ++t) {
    if (t < in.time) {
      const int64_t row = batch * in.time + t;
      const bool start = in.StartsAt(row);
      if (start) last_start = t;
      window.Push(LoadF(in.x + row * in.x_stride + e), start);
      float dv = LoadF(args.dy + row * args.dy_stride + e);
      if (in.silu) {
        const float v = window.Convolve();
        dv *= SiluSlope(v, Sigmoid(v));
      }
      const bool own = t < end;
      if (own) dbias += dv;
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        if (k >= kTaps - window.reach) g[k] += window.w[k] * dv;
        if (own) dw[k] += dv * window.x[k];
      }
    }
    // Nothing reaches input s any more.
    const int64_t s = t - kTaps + 1;
    if (s >= first_s && s < end) {
      StoreInputGradient(args, batch, e, s, last_start, g[0]);
    }
#pragma unroll
    for (int k = 0; k + 1 < kTaps; ++k) g[k] = g[k + 1];
    g[kTaps - 1] = 0.0f;
  }
  float* to = args.partial +
              (batch * gridDim.y + blockIdx.y) * (in.taps + 1) * in.channels +
              e;
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    if (k >= window.pad) to[(k - window.pad) * in.channels] = dw[k];
  }
  to[in.taps * in.channels] = dbias;
}

struct SumArgs {
  int64_t channels, parts;
  int taps;
  const float* partial;  // [parts, K + 1, E]
  float *dweight, *dbias;
};
// A thread a weight or bias.
__global__ void __launch_bounds__(kThreads)
    CausalConv1dSumKernel(const SumArgs args) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  const int64_t size = (args.taps + 1) * args.channels;
  if (i >= size) return;
  const int64_t k = i / args.channels, e = i % args.channels;
  float* to = args.dweight + e * args.taps + k;
  if (k == args.taps) {
    if (args.dbias == nullptr) return;
    to = args.dbias + e;
  }
  float sum = 0.0f;
  for (int64_t p = 0; p < args.parts; ++p) sum += args.partial[p * size + i];
  *to += sum;
}

int64_t Segments(const CausalConv1dArgs& args) {
  return (args.time + kConvSegment - 1) / kConvSegment;
}

template <class T>
ConvInputs<T> MakeInputs(const CausalConv1dArgs& args) {
  return {args.time,
          args.channels,
          static_cast<int>(args.taps),
          args.silu,
          static_cast<const T*>(args.x.data),
          args.x.stride,
          args.weight,
          args.bias,
          args.carry_in,
          args.document_start};
}

dim3 Grid(const CausalConv1dArgs& args) {
  return dim3((args.channels + kThreads - 1) / kThreads, Segments(args),
              args.batch);
}

template <class T, class Y>
LaunchStatus Forward(const CausalConv1dArgs& args,
                     const CausalConv1dForwardOut& out, Stream stream) {
  const ForwardArgs<T, Y> forward = {MakeInputs<T>(args),
                                     static_cast<Y*>(out.y.data), out.y.stride,
                                     out.carry_out};
  return Launch("causal_conv1d_forward",
                args.taps == 4 ? CausalConv1dForwardKernel<T, Y, 4>
                               : CausalConv1dForwardKernel<T, Y, 8>,
                Grid(args), kThreads, 0, stream, forward);
}

template <class T, class Y>
LaunchStatus Backward(const CausalConv1dArgs& args,
                      const CausalConv1dBackwardArgs& grad, float* workspace,
                      Stream stream) {
  const BackwardArgs<T, Y> backward = {MakeInputs<T>(args),
                                       static_cast<const Y*>(grad.dy.data),
                                       static_cast<T*>(grad.dx.data),
                                       grad.dy.stride,
                                       grad.dx.stride,
                                       grad.dcarry_out,
                                       grad.dcarry_in,
                                       workspace};
  return Launch("causal_conv1d_backward",
                args.taps == 4 ? CausalConv1dBackwardKernel<T, Y, 4>
                               : CausalConv1dBackwardKernel<T, Y, 8>,
                Grid(args), kThreads, 0, stream, backward);
}

void CheckArgs(const CausalConv1dArgs& args) {
  CARRY_CHECK(args.taps >= 1 && args.taps <= 8 && args.batch <= 65535);
  CARRY_CHECK(Segments(args) <= 65535);
}

}  // namespace

int64_t CausalConv1dBackwardWorkspace(const CausalConv1dArgs& args) {
  return args.batch * Segments(args) * (args.taps + 1) * args.channels;
}

LaunchStatus CausalConv1dForward(const CausalConv1dArgs& args,
                                 const CausalConv1dForwardOut& out,
                                 Stream stream) {
  CheckArgs(args);
  const bool half_x = args.x.dtype == DType::kBF16;
  const bool half_y = out.y.dtype == DType::kBF16;
  if (half_x) {
    return half_y ? Forward<BFloat16, BFloat16>(args, out, stream)
                  : Forward<BFloat16, float>(args, out, stream);
  }
  return half_y ? Forward<float, BFloat16>(args, out, stream)
                : Forward<float, float>(args, out, stream);
}

LaunchStatus CausalConv1dBackward(const CausalConv1dArgs& args,
                                  const CausalConv1dBackwardArgs& grad,
                                  float* workspace, Stream stream) {
  CheckArgs(args);
  CARRY_CHECK(grad.dx.dtype == args.x.dtype);
  const bool half_x = args.x.dtype == DType::kBF16;
  const bool half_y = grad.dy.dtype == DType::kBF16;
  LaunchStatus status;
  if (half_x) {
    status = half_y
                 ? Backward<BFloat16, BFloat16>(args, grad, workspace, stream)
                 : Backward<BFloat16, float>(args, grad, workspace, stream);
  } else {
    status = half_y ? Backward<float, BFloat16>(args, grad, workspace, stream)
                    : Backward<float, float>(args, grad, workspace, stream);
  }
  if (!status.ok()) return status;
  const SumArgs sum = {args.channels,
                       args.batch * Segments(args),
                       static_cast<int>(args.taps),
                       workspace,
                       grad.dweight,
                       grad.dbias};
  const int64_t items = (args.taps + 1) * args.channels;
  return Launch("causal_conv1d_sum", CausalConv1dSumKernel,
                dim3((items + kThreads - 1) / kThreads), kThreads, 0, stream,
                sum);
}

}  // namespace carry::cuda
