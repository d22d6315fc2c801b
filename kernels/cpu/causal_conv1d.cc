// The convolution's forward pass.
//
// A thread takes a range of rows, top down, of one block of channels: the K
// rows that a token sees then stay in the L1 cache. The first K - 1 rows, and
// those behind a document start, go through a copy of their taps in fp32, zero
// where a tap does not reach.

#include "kernels/causal_conv1d.h"

#include <algorithm>

#include "kernels/cpu/causal_conv1d_tasks.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/causal_conv1d.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/causal_conv1d-inl.h"
#include "kernels/cpu/causal_conv1d_lines-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

template <int kTaps, class TX, class TY>
HWY_INLINE void ForwardRow(const TX* const* x, const ConvWeights& w,
                           int64_t taps, bool silu, int64_t width, TY* y) {
  ForLanes(width, [&](int64_t i, auto lanes) HWY_ATTR {
    VF v = Convolve<kTaps>(x, w, taps, i, lanes);
    if (silu) {
      const VF x[1] = {v};
      VF s[1];
      Sigmoid(x, s);
      v = hn::Mul(v, s[0]);
    }
    StoreF(v, y + i, lanes);
  });
}

// v := silu(v), to what a T can hold.
template <class T, int kN>
HWY_INLINE void Silu(VF (&v)[kN]) {
  VF s[kN];
  if constexpr (std::is_same_v<T, BFloat16>) {
    SigmoidForBf16(v, s);
  } else {
    Sigmoid(v, s);
  }
  for (int j = 0; j < kN; ++j) v[j] = hn::Mul(v[j], s[j]);
}

// Rows [row, row + kFastRows) of the matrices. `ahead`: further rows of x.
template <class TX, class TY, class Lines>
HWY_INLINE void ForwardRows(const CausalConv1dArgs& args, const MatView& y,
                            const ConvTask& task, int64_t row,
                            const ConvWeights& w, const Lines& lines,
                            bool stream, bool ahead) {
  const int64_t stride = args.x.stride, y_stride = y.stride;
  const TX* HWY_RESTRICT x0 =
      RowPointer<TX>(args.x, row - kFastTaps + 1, task.c0);
  const TX* next = x0 + (ahead ? 2 * kFastRows - 1 : 0) * stride;
  TY* HWY_RESTRICT y0 = RowPointer<TY>(y, row, task.c0);
  const bool silu = args.silu;
  const auto convolve = [&](int64_t i, auto lanes, VF* v) HWY_ATTR {
    VF x[kFastRows + kFastTaps - 1];
    for (int r = 0; r < kFastRows + kFastTaps - 1; ++r) {
      x[r] = LoadF(x0 + r * stride + i, lanes);
    }
    ConvolveRows(x, w, i, v);
  };
  constexpr int kJoined = kLineVectors<TY>;
  int64_t i = 0;
  if constexpr (kInLines<TX, TY>) {
    lines.Rows(x0, next, stride, y0, y_stride, stream);
    i = lines.width();
  }
  if (stream) {
    for (; i + kJoined * kLanes <= task.width; i += kJoined * kLanes) {
      PrefetchRows(next + i, stride);
      VF v[kJoined * kFastRows];
      for (int j = 0; j < kJoined; ++j) {
        convolve(i + j * kLanes, AllLanes(), v + j * kFastRows);
      }
      if (silu) Silu<TY>(v);
      for (int r = 0; r < kFastRows; ++r) {
        VF line[kJoined];
        for (int j = 0; j < kJoined; ++j) line[j] = v[j * kFastRows + r];
        StreamLine(line, y0 + r * y_stride + i);
      }
    }
  }
  ForLanes(task.width - i, [&](int64_t rest, auto lanes) HWY_ATTR {
    const int64_t at = i + rest;
    PrefetchRows(next + at, stride);
    VF v[kFastRows];
    convolve(at, lanes, v);
    if (silu) Silu<TY>(v);
    for (int r = 0; r < kFastRows; ++r) {
      StoreF(v[r], y0 + r * y_stride + at, lanes);
    }
  });
}

template <int kTaps, class TX, class TY>
void ForwardTask(const CausalConv1dArgs& args,
                 const CausalConv1dForwardOut& out, const ConvTask& task) {
  using Lines = std::conditional_t<kTaps == kFastTaps && kInLines<TX, TY>,
                                   ForwardLines, NoConvLines>;
  const int64_t taps = args.taps;
  Scratch scratch(
      ScratchSlot::kWorker,
      ConvWeights::Size(taps) + (taps + Lines::kArrays) * kConvBlock);
  const ConvWeights w(args, task.c0, task.width, &scratch);
  const Lines lines(w, task.width, args.silu, &scratch);
  float* copies = scratch.Take(taps * kConvBlock);
  const bool stream =
      ShouldStream<TY>(out.y) && CanStreamLines<kLineVectors<TY>>(out.y);
  for (int64_t t = task.t0; t < task.t1; ++t) {
    const int64_t row = task.b * args.time + t;
    if constexpr (kTaps == kFastTaps) {
      const int64_t end = t + kFastRows;
      if (end <= task.t1 && ConvIsPlain(args, task.b, t, end)) {
        const bool ahead = end + kFastRows <= task.t1;
        ForwardRows<TX, TY>(args, out.y, task, row, w, lines, stream, ahead);
        t = end - 1;
        continue;
      }
    }
    TY* y = RowPointer<TY>(out.y, row, task.c0);
    const int64_t reach = ConvReach(args, task.b, t);
    if (t < taps - 1 || reach < taps - 1) {
      CopyTaps(args, task, t, reach, copies);
      const float* x[kMaxTaps];
      for (int64_t k = 0; k < taps; ++k) x[k] = copies + k * kConvBlock;
      ForwardRow<kTaps>(x, w, taps, args.silu, task.width, y);
    } else {
      const TX* x[kMaxTaps];
      for (int64_t k = 0; k < taps; ++k) {
        x[k] = RowPointer<TX>(args.x, row - (taps - 1) + k, task.c0);
      }
      ForwardRow<kTaps>(x, w, taps, args.silu, task.width, y);
    }
  }
  hwy::FlushStream();
}

template <int kTaps>
void ForwardTypes(const CausalConv1dArgs& args,
                  const CausalConv1dForwardOut& out, const ConvTask& task) {
  const bool x32 = args.x.dtype == DType::kF32;
  const bool y32 = out.y.dtype == DType::kF32;
  if (x32 && y32) return ForwardTask<kTaps, float, float>(args, out, task);
  if (x32) return ForwardTask<kTaps, float, BFloat16>(args, out, task);
  if (y32) return ForwardTask<kTaps, BFloat16, float>(args, out, task);
  ForwardTask<kTaps, BFloat16, BFloat16>(args, out, task);
}

void ConvForward(const CausalConv1dArgs& args,
                 const CausalConv1dForwardOut& out, const ConvTask& task) {
  const FlushDenormals flush;
  if (args.taps == 4) return ForwardTypes<4>(args, out, task);
  ForwardTypes<0>(args, out, task);
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {
namespace {

HWY_EXPORT(ConvForward);

void CarryOut(const CausalConv1dArgs& args, float* carry_out) {
  const int64_t slots = args.taps - 1;
  const int64_t T = args.time;
  ParallelFor(args.batch, [&](int64_t b) {
    const int64_t reach = ConvReach(args, b, T - 1);
    for (int64_t e = 0; e < args.channels; ++e) {
      float* to = carry_out + (b * args.channels + e) * slots;
      for (int64_t j = 0; j < slots; ++j) {
        const int64_t t = T - slots + j;
        to[j] = T - 1 - t <= reach ? InputAt(args, b, t, e) : 0.0f;
      }
    }
  });
}

}  // namespace

void CausalConv1dForward(const CausalConv1dArgs& args,
                         const CausalConv1dForwardOut& out) {
  CheckConv(args);
  const ConvTasks tasks(args);
  ParallelFor(tasks.size(), [&](int64_t i) {
    HWY_DYNAMIC_DISPATCH(ConvForward)(args, out, tasks[i]);
  });
  if (out.carry_out != nullptr) CarryOut(args, out.carry_out);
}

}  // namespace carry
#endif  // HWY_ONCE
