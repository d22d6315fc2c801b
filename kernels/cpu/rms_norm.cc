// Rows are split over threads; a row is read from memory once and then from L1.

#include "kernels/rms_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rms_norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// s = residual + delta of one row, kept in `s` and, if not null, written to
// `sum`; returns sum s^2.
template <class TDelta>
HWY_INLINE float SumRow(const float* residual, const TDelta* delta, int64_t d,
                        float* s, float* sum, bool stream) {
  VF squares[2] = {Zero(), Zero()};
  int which = 0;
  ForLanes(d, [&](int64_t i, auto lanes) HWY_ATTR {
    VF v = LoadF(residual + i, lanes);
    if (delta != nullptr) v = hn::Add(v, LoadF(delta + i, lanes));
    StoreF(v, s + i);
    if (sum != nullptr) StoreOrStream(v, sum + i, stream, lanes);
    squares[which] = hn::MulAdd(v, v, squares[which]);
    which ^= 1;
  });
  return Sum(hn::Add(squares[0], squares[1]));
}

template <class TDelta, class TY>
void ForwardRows(const RmsNormForwardArgs& args, int64_t begin, int64_t end) {
  const int64_t d = args.y.cols;
  Scratch scratch(ScratchSlot::kWorker, Scratch::Rounded(d));
  float* s = scratch.Take(d);
  const MatView sum = {args.sum, DType::kF32, args.y.rows, d, d};
  // In place, the line is in the cache already.
  const bool stream_sum = args.sum != args.residual && ShouldStream<float>(sum);
  const bool stream_y = ShouldStream<TY>(args.y);
  for (int64_t r = begin; r < end; ++r) {
    const TDelta* delta = args.delta.data == nullptr
                              ? nullptr
                              : static_cast<const TDelta*>(args.delta.data) +
                                    r * args.delta.stride;
    float* sum_row = args.sum == nullptr ? nullptr : args.sum + r * d;
    const float squares =
        SumRow(args.residual + r * d, delta, d, s, sum_row, stream_sum);
    const float q =
        1.0f / std::sqrt(squares / static_cast<float>(d) + args.eps);
    if (args.inv_rms != nullptr) args.inv_rms[r] = q;
    TY* y = static_cast<TY*>(args.y.data) + r * args.y.stride;
    const float* weight = args.weight;
    ForLanes(d, [=](int64_t i, auto lanes) HWY_ATTR {
      const VF normed = hn::Mul(LoadF(s + i), Set(q));
      StoreOrStream(hn::Mul(normed, LoadF(weight + i, lanes)), y + i, stream_y,
                    lanes);
    });
  }
  hwy::FlushStream();
}

void NormForward(const RmsNormForwardArgs& args, int64_t begin, int64_t end) {
  const bool delta32 = args.delta.dtype == DType::kF32;
  const bool y32 = args.y.dtype == DType::kF32;
  if (delta32 && y32) return ForwardRows<float, float>(args, begin, end);
  if (delta32) return ForwardRows<float, BFloat16>(args, begin, end);
  if (y32) return ForwardRows<BFloat16, float>(args, begin, end);
  ForwardRows<BFloat16, BFloat16>(args, begin, end);
}

template <class TDy, class TDelta>
void BackwardRows(const RmsNormBackwardArgs& args, int64_t begin, int64_t end,
                  float* dweight) {
  const int64_t d = args.dy.cols;
  for (int64_t r = begin; r < end; ++r) {
    const TDy* dy = static_cast<const TDy*>(args.dy.data) + r * args.dy.stride;
    const float* s = args.sum + r * d;
    const float* dsum = args.dsum == nullptr ? nullptr : args.dsum + r * d;
    const float q = args.inv_rms[r];
    VF dots = Zero();
    ForLanes(d, [&](int64_t i, auto lanes) HWY_ATTR {
      const VF g = LoadF(dy + i, lanes);
      const VF gs = hn::Mul(g, LoadF(s + i, lanes));
      dots = hn::MulAdd(gs, LoadF(args.weight + i, lanes), dots);
      StoreF(hn::MulAdd(gs, Set(q), LoadF(dweight + i)), dweight + i);
    });
    const float mean = Sum(dots) / static_cast<float>(d);
    const VF back = Set(mean * q * q * q);
    float* dresidual = args.dresidual + r * d;
    TDelta* ddelta =
        args.ddelta.data == nullptr
            ? nullptr
            : static_cast<TDelta*>(args.ddelta.data) + r * args.ddelta.stride;
    ForLanes(d, [&](int64_t i, auto lanes) HWY_ATTR {
      const VF gw =
          hn::Mul(LoadF(dy + i, lanes), LoadF(args.weight + i, lanes));
      VF ds = hn::Mul(gw, Set(q));
      ds = hn::NegMulAdd(LoadF(s + i, lanes), back, ds);
      if (dsum != nullptr) ds = hn::Add(ds, LoadF(dsum + i, lanes));
      StoreF(ds, dresidual + i, lanes);
      if (ddelta != nullptr) StoreF(ds, ddelta + i, lanes);
    });
  }
}

// `dweight` [D rounded]: += this range's.
void NormBackward(const RmsNormBackwardArgs& args, int64_t begin, int64_t end,
                  float* dweight) {
  const bool dy32 = args.dy.dtype == DType::kF32;
  const bool delta32 = args.ddelta.dtype == DType::kF32;
  if (dy32 && delta32) {
    BackwardRows<float, float>(args, begin, end, dweight);
  } else if (dy32) {
    BackwardRows<float, BFloat16>(args, begin, end, dweight);
  } else if (delta32) {
    BackwardRows<BFloat16, float>(args, begin, end, dweight);
  } else {
    BackwardRows<BFloat16, BFloat16>(args, begin, end, dweight);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {
namespace {

HWY_EXPORT(NormForward);
HWY_EXPORT(NormBackward);

}  // namespace

void RmsNormForward(const RmsNormForwardArgs& args) {
  ParallelRanges(args.y.rows, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(NormForward)(args, begin, end);
  });
}

void RmsNormBackward(const RmsNormBackwardArgs& args) {
  CARRY_CHECK(args.dweight != nullptr && args.dresidual != nullptr);
  const int64_t d = args.dy.cols;
  const int64_t part = Scratch::Rounded(d);
  const int64_t threads = std::min<int64_t>(NumThreads(), args.dy.rows);
  Scratch scratch(ScratchSlot::kCall, threads * part);
  float* sums = scratch.Take(threads * part);
  ParallelRanges(args.dy.rows, [&](int64_t begin, int64_t end, int thread) {
    float* mine = sums + thread * part;
    std::fill_n(mine, part, 0.0f);
    HWY_DYNAMIC_DISPATCH(NormBackward)(args, begin, end, mine);
  });
  for (int64_t thread = 0; thread < threads; ++thread) {
    for (int64_t i = 0; i < d; ++i) {
      args.dweight[i] += sums[thread * part + i];
    }
  }
}

}  // namespace carry
#endif  // HWY_ONCE
