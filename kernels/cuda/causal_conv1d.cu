#include "kernels/check.h"
#include "kernels/cuda/causal_conv1d_plain.cuh"

namespace carry::cuda {
namespace {

constexpr int kThreads = kConvThreads;

// Where a thread works in a grid of (segments, channels, B): on channels
// [e, e + kWidth).
template <int kWidth, class T>
struct Place {
  int64_t e, batch, t0, end;
  bool mine, whole;  // whole: a segment of kConvSegment tokens

  __device__ __forceinline__ explicit Place(const ConvInputs<T>& in)
      : e((blockIdx.y * int64_t{kThreads} + threadIdx.x) * kWidth),
        batch(blockIdx.z),
        t0(blockIdx.x * kConvSegment) {
    end = t0 + kConvSegment < in.time ? t0 + kConvSegment : in.time;
    mine = e < in.channels;
    whole = end - t0 == kConvSegment;
  }
};

// One channel of any segment.
template <int kTaps, class T, class Y>
__device__ __forceinline__ void AnyForward(const ConvForwardArgs<T, Y>& args,
                                           int64_t batch, int64_t e, int64_t t0,
                                           int64_t end) {
  const ConvInputs<T>& in = args.in;
  ConvWindow<T, kTaps> window(in, batch, e, t0);
  int64_t row = batch * in.time + t0;
  const T* x_at = in.x + row * in.x_stride + e;
  Y* y_at = args.y + row * args.y_stride + e;
#pragma unroll 4
  for (int64_t t = t0; t < end; ++t) {
    window.Push(LoadF(x_at), in.StartsAt(row++));
    const float v = window.Convolve();
    StoreF(in.silu ? Silu(v) : v, y_at);
    x_at += in.x_stride;
    y_at += args.y_stride;
  }
  if (args.carry_out != nullptr && end == in.time) {
    float* to = args.carry_out + (batch * in.channels + e) * (in.taps - 1);
#pragma unroll
    for (int k = 1; k < kTaps; ++k) {
      if (k > window.pad) to[k - window.pad - 1] = window.x[k];
    }
  }
}

template <class T, class Y, int kTaps, int kWidth>
__global__ void __launch_bounds__(kThreads, kWidth == 1 ? 8 : 4)
    CausalConv1dForwardKernel(const ConvForwardArgs<T, Y> args) {
  const ConvInputs<T>& in = args.in;
  const Place<kWidth, T> at(in);
  if constexpr (kWidth > 1) {
    if (at.whole && !AnyStart(in, at.batch * in.time + at.t0, kConvSegment)) {
      if (!at.mine) return;  // No barriers follow.
      if (in.silu) {
        PlainForward<true>(args, at.batch, at.e, at.t0);
      } else {
        PlainForward<false>(args, at.batch, at.e, at.t0);
      }
      return;
    }
  }
  if (!at.mine) return;  // No barriers follow.
#pragma unroll 1
  for (int c = 0; c < kWidth; ++c) {
    AnyForward<kTaps>(args, at.batch, at.e + c, at.t0, at.end);
  }
}

// Where the gradient of input s of a channel goes, s < 0: the carry.
template <class T, class Y>
__device__ __forceinline__ void StoreInputGradient(
    const ConvBackwardArgs<T, Y>& args, int64_t batch, int64_t e, int64_t s,
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

// One channel of any segment. A segment writes the gradients of its inputs, the
// first those of the carry too, and sums dweight over its tokens; tokens on its
// right it computes for what they give to its inputs.
template <int kTaps, class T, class Y>
__device__ __forceinline__ void AnyBackward(const ConvBackwardArgs<T, Y>& args,
                                            int64_t batch, int64_t e,
                                            int64_t t0, int64_t end) {
  const ConvInputs<T>& in = args.in;
  const int64_t first_s = t0 == 0 ? 1 - in.taps : t0;
  ConvWindow<T, kTaps> window(in, batch, e, t0);
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
  const int64_t part = batch * gridDim.x + blockIdx.x;
  float* to = args.partial + part * (in.taps + 1) * in.channels + e;
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    if (k >= window.pad) to[(k - window.pad) * in.channels] = dw[k];
  }
  to[in.taps * in.channels] = dbias;
}

template <class T, class Y, int kTaps, int kWidth>
__global__ void __launch_bounds__(kThreads, kWidth == 1 ? 1 : 4)
    CausalConv1dBackwardKernel(const ConvBackwardArgs<T, Y> args) {
  const ConvInputs<T>& in = args.in;
  const Place<kWidth, T> at(in);
  if constexpr (kWidth > 1) {
    constexpr int kHalo = kTaps - 1;
    if (at.whole && at.t0 > 0 && at.end + kHalo <= in.time &&
        !AnyStart(in, at.batch * in.time + at.t0, kConvSegment + kHalo)) {
      if (!at.mine) return;  // No barriers follow.
      if (in.silu) {
        PlainBackward<true>(args, at.batch, at.e, at.t0);
      } else {
        PlainBackward<false>(args, at.batch, at.e, at.t0);
      }
      return;
    }
  }
  if (!at.mine) return;  // No barriers follow.
#pragma unroll 1
  for (int c = 0; c < kWidth; ++c) {
    AnyBackward<kTaps>(args, at.batch, at.e + c, at.t0, at.end);
  }
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

dim3 Grid(const CausalConv1dArgs& args, int width) {
  const int64_t block = kThreads * width;
  return dim3(Segments(args), (args.channels + block - 1) / block, args.batch);
}

template <class T, class Y>
LaunchStatus Forward(const CausalConv1dArgs& args,
                     const CausalConv1dForwardOut& out, Stream stream) {
  const ConvForwardArgs<T, Y> forward = {MakeInputs<T>(args),
                                         static_cast<Y*>(out.y.data),
                                         out.y.stride, out.carry_out};
  auto* kernel = CausalConv1dForwardKernel<T, Y, 8, 1>;
  int width = 1;
  if (args.taps == 4 && IsOfFours(args.x) && IsOfFours(out.y)) {
    kernel = CausalConv1dForwardKernel<T, Y, 4, 4>;
    width = 4;
  } else if (args.taps == 4) {
    kernel = CausalConv1dForwardKernel<T, Y, 4, 1>;
  }
  return Launch("causal_conv1d_forward", kernel, Grid(args, width), kThreads, 0,
                stream, forward);
}

template <class T, class Y>
LaunchStatus Backward(const CausalConv1dArgs& args,
                      const CausalConv1dBackwardArgs& grad, float* workspace,
                      Stream stream) {
  const ConvBackwardArgs<T, Y> backward = {MakeInputs<T>(args),
                                           static_cast<const Y*>(grad.dy.data),
                                           static_cast<T*>(grad.dx.data),
                                           grad.dy.stride,
                                           grad.dx.stride,
                                           grad.dcarry_out,
                                           grad.dcarry_in,
                                           workspace};
  auto* kernel = CausalConv1dBackwardKernel<T, Y, 8, 1>;
  int width = 1;
  if (args.taps == 4 && IsOfFours(args.x) && IsOfFours(grad.dy) &&
      IsOfFours(grad.dx)) {
    kernel = CausalConv1dBackwardKernel<T, Y, 4, 4>;
    width = 4;
  } else if (args.taps == 4) {
    kernel = CausalConv1dBackwardKernel<T, Y, 4, 1>;
  }
  return Launch("causal_conv1d_backward", kernel, Grid(args, width), kThreads,
                0, stream, backward);
}

void CheckArgs(const CausalConv1dArgs& args) {
  CARRY_CHECK(args.taps >= 1 && args.taps <= 8 && args.batch <= 65535);
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
