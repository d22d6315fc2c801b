// The convolution's backward pass: as the forward pass, but rows from the last
// to the first.

#include <algorithm>

#include "kernels/causal_conv1d.h"
#include "kernels/cpu/causal_conv1d_tasks.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/causal_conv1d_backward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/causal_conv1d-inl.h"
#include "kernels/cpu/causal_conv1d_lines-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// dv of one row, and the sums over time of dv x and dv.
template <int kTaps, class TX, class TY>
HWY_INLINE void BackwardRow(const TX* const* x, const TY* dy,
                            const ConvWeights& w, int64_t taps, bool silu,
                            int64_t width, float* dv, float* const* dw) {
  ForLanes(width, [&](int64_t i, auto lanes) HWY_ATTR {
    VF g = LoadF(dy + i, lanes);
    if (silu) {
      const VF v[1] = {Convolve<kTaps>(x, w, taps, i, lanes)};
      VF s[1];
      Sigmoid(v, s);
      // silu' = s + v s (1 - s)
      g = hn::Mul(
          g, hn::MulAdd(hn::Mul(v[0], s[0]), hn::Sub(Set(1.0f), s[0]), s[0]));
    }
    StoreF(g, dv + i);
    const int64_t n = kTaps > 0 ? kTaps : taps;
    for (int64_t k = 0; k < n; ++k) {
      StoreF(hn::MulAdd(g, LoadF(x[k] + i, lanes), LoadF(dw[k] + i)),
             dw[k] + i);
    }
    StoreF(hn::Add(g, LoadF(dw[n] + i)), dw[n] + i);
  });
}

// One block of channels of rows [t0, t1), from the last to the first, with
// dv of the K - 1 rows behind them computed again. `sums` [K + 1][E].
template <int kTaps, class TX, class TY>
class ConvBackward {
 public:
  ConvBackward(const CausalConv1dArgs& args,
               const CausalConv1dBackwardArgs& grad, const ConvTask& task,
               float* sums)
      : args_(args),
        grad_(grad),
        task_(task),
        taps_(args.taps),
        scratch_(ScratchSlot::kWorker,
                 ConvWeights::Size(taps_) +
                     (3 * taps_ + 3 + Lines::kArrays) * kConvBlock),
        w_(args, task.c0, task.width, &scratch_),
        lines_(w_, task.width, args.silu, &scratch_),
        stream_(ShouldStream<TX>(grad.dx) &&
                CanStreamLines<kLineVectors<TX>>(grad.dx)) {
    ring_ = scratch_.Take(taps_ * kConvBlock);
    copies_ = scratch_.Take(taps_ * kConvBlock);
    dx_ = scratch_.Take(kConvBlock);
    sink_ = scratch_.Take((taps_ + 1) * kConvBlock);
    for (int64_t k = 0; k <= taps_; ++k) {
      dw_[k] = sums + k * Scratch::Rounded(args.channels) + task.c0;
    }
  }

  void Run() {
    const int64_t halo = std::min(args_.time, task_.t1 + taps_ - 1);
    float* const* real = dw_;
    float* ignored[kMaxTaps + 1];
    for (int64_t k = 0; k <= taps_; ++k) ignored[k] = sink_ + k * kConvBlock;
    std::fill_n(sink_, (taps_ + 1) * kConvBlock, 0.0f);
    for (int64_t t = halo - 1; t >= task_.t0; --t) {
      if constexpr (kTaps == kFastTaps) {
        const int64_t begin = t - kFastRows + 1;
        if (t < task_.t1 && begin >= task_.t0 && t + kFastTaps <= args_.time &&
            ConvIsPlain(args_, task_.b, begin, t + kFastTaps)) {
          Rows(begin);
          t = begin;
          continue;
        }
        LeaveLines(t + 1);
      }
      Row(t, t < task_.t1 ? real : ignored);
      if (t < task_.t1) InputGradient(t);
    }
    LeaveLines(task_.t0);
    if constexpr (kLined) lines_.AddSums(dw_);
    hwy::FlushStream();
    if (task_.t0 != 0 || grad_.dcarry_in == nullptr) return;
    for (int64_t t = -1; t > -taps_; --t) CarryGradient(t);
  }

 private:
  static constexpr bool kLined = kTaps == kFastTaps && kInLines<TX, TY>;
  using Lines = std::conditional_t<kLined, BackwardLines, NoConvLines>;

  float* Dv(int64_t t) const { return ring_ + t % taps_ * kConvBlock; }

  HWY_INLINE void Row(int64_t t, float* const* dw) {
    const int64_t row = task_.b * args_.time + t;
    const TY* dy = RowPointer<TY>(grad_.dy, row, task_.c0);
    const int64_t reach = ConvReach(args_, task_.b, t);
    if (t < taps_ - 1 || reach < taps_ - 1) {
      CopyTaps(args_, task_, t, reach, copies_);
      const float* x[kMaxTaps];
      for (int64_t k = 0; k < taps_; ++k) x[k] = copies_ + k * kConvBlock;
      BackwardRow<kTaps>(x, dy, w_, taps_, args_.silu, task_.width, Dv(t), dw);
    } else {
      const TX* x[kMaxTaps];
      for (int64_t k = 0; k < taps_; ++k) {
        x[k] = RowPointer<TX>(args_.x, row - (taps_ - 1) + k, task_.c0);
      }
      BackwardRow<kTaps>(x, dy, w_, taps_, args_.silu, task_.width, Dv(t), dw);
    }
  }

  // Whether `rows` more rows lie before row t, to be fetched.
  bool Ahead(int64_t t, int64_t rows) const {
    return t - rows >= task_.t0 + kFastTaps;
  }

  // Rows [t, t + kFastRows) at once: dv, dx and the sums.
  HWY_INLINE void Rows(int64_t t) {
    if constexpr (kLined) {
      RowsInLines(t);
      if (lines_.width() < task_.width) RowsFrom(t, lines_.width());
    } else {
      RowsFrom(t, 0);
    }
  }

  HWY_INLINE void RowsInLines(int64_t t) {
    if (!dv_in_lines_) {
      for (int r = 0; r < kFastTaps - 1; ++r) {
        lines_.SetDv(r, Dv(t + kFastRows + r));
      }
      dv_in_lines_ = true;
    }
    const int64_t row = task_.b * args_.time + t;
    const int64_t back = 2 * kFastRows;
    lines_.Rows(RowPointer<TX>(args_.x, row - kFastTaps + 1, task_.c0),
                args_.x.stride, RowPointer<TY>(grad_.dy, row, task_.c0),
                grad_.dy.stride, RowPointer<TX>(grad_.dx, row, task_.c0),
                grad_.dx.stride, Ahead(t, back) ? back : 0, stream_);
  }

  // Puts dv of the rows from t back where rows one by one look for it.
  HWY_INLINE void LeaveLines(int64_t t) {
    if constexpr (kLined) {
      if (!dv_in_lines_) return;
      for (int r = 0; r < kFastTaps - 1; ++r) lines_.GetDv(r, Dv(t + r));
      dv_in_lines_ = false;
    }
  }

  // The same for the channels from c.
  HWY_INLINE void RowsFrom(int64_t t, int64_t c) {
    constexpr int kInputs = kFastRows + kFastTaps - 1;
    const int64_t row = task_.b * args_.time + t;
    const int64_t stride = args_.x.stride, dy_stride = grad_.dy.stride;
    const int64_t dx_stride = grad_.dx.stride;
    const int64_t back = Ahead(t, kFastRows) ? kFastRows : 0;
    const TX* HWY_RESTRICT x0 =
        RowPointer<TX>(args_.x, row - kFastTaps + 1, task_.c0);
    const TY* HWY_RESTRICT dy0 = RowPointer<TY>(grad_.dy, row, task_.c0);
    TX* HWY_RESTRICT dx0 = RowPointer<TX>(grad_.dx, row, task_.c0);
    float* ring[kInputs];  // dv of t, t + 1, .. The first four are written.
    for (int r = 0; r < kInputs; ++r) ring[r] = Dv(t + r);
    float* const* dw = dw_;
    const bool silu = args_.silu, stream = stream_;
    ForLanes(task_.width - c, [&](int64_t from_c, auto lanes) HWY_ATTR {
      const int64_t i = c + from_c;
      VF x[kInputs], v[kFastRows], g[kInputs];
      for (int r = 0; r < kInputs; ++r) {
        x[r] = LoadF(x0 + r * stride + i, lanes);
      }
      for (int r = kFastRows; r < kInputs; ++r) g[r] = LoadF(ring[r] + i);
      for (int r = 0; r < kFastRows; ++r) {
        g[r] = LoadF(dy0 + r * dy_stride + i, lanes);
      }
      PrefetchRows(x0 - back * stride + i, stride);
      PrefetchRows(dy0 - back * dy_stride + i, dy_stride);
      if (silu) {
        VF s[kFastRows];
        ConvolveRows(x, w_, i, v);
        Sigmoid(v, s);
        for (int r = 0; r < kFastRows; ++r) {
          // silu' = s + v s (1 - s)
          const VF rest = hn::Sub(Set(1.0f), s[r]);
          g[r] = hn::Mul(g[r], hn::MulAdd(hn::Mul(v[r], s[r]), rest, s[r]));
        }
      }
      VF sum = LoadF(dw[kFastTaps] + i);
      for (int r = 0; r < kFastRows; ++r) sum = hn::Add(sum, g[r]);
      StoreF(sum, dw[kFastTaps] + i);
      VF dx[kFastRows];
      for (int k = kFastTaps - 1; k >= 0; --k) {
        const VF wk = LoadF(w_.w[k] + i);
        VF dwk = LoadF(dw[k] + i);
        for (int r = 0; r < kFastRows; ++r) {
          const VF user = g[r + kFastTaps - 1 - k];
          dx[r] = k == kFastTaps - 1 ? hn::Mul(wk, user)
                                     : hn::MulAdd(wk, user, dx[r]);
          dwk = hn::MulAdd(g[r], x[r + k], dwk);
        }
        StoreF(dwk, dw[k] + i);
      }
      for (int r = 0; r < kFastRows; ++r) {
        StoreF(g[r], ring[r] + i);
        StoreOrStream(dx[r], dx0 + r * dx_stride + i, stream, lanes);
      }
    });
  }

  // The tokens t + j whose taps reach t: j <= last.
  int64_t LastUser(int64_t t) const {
    int64_t last = 0;
    for (int64_t j = t < 0 ? -t : 0; j < taps_ && t + j < args_.time; ++j) {
      if (ConvReach(args_, task_.b, t + j) < j) break;
      last = j;
    }
    return last;
  }

  // Whether x_t is in the carry out, and its slot.
  bool InCarryOut(int64_t t, int64_t* slot) const {
    *slot = t - (args_.time - (taps_ - 1));
    if (grad_.dcarry_out == nullptr || *slot < 0) return false;
    // As a tap of the token behind the last, which is no document start.
    const int64_t reach = ConvReach(args_, task_.b, args_.time - 1);
    return args_.time - 1 - t <= reach;
  }

  HWY_INLINE void InputGradient(int64_t t) {
    const int64_t row = task_.b * args_.time + t;
    TX* dx = RowPointer<TX>(grad_.dx, row, task_.c0);
    const int64_t last = LastUser(t);
    int64_t slot;
    if (InCarryOut(t, &slot)) {
      const int64_t slots = taps_ - 1;
      for (int64_t i = 0; i < task_.width; ++i) {
        const int64_t e = task_.b * args_.channels + task_.c0 + i;
        dx_[i] = grad_.dcarry_out[e * slots + slot];
      }
    } else {
      std::fill_n(dx_, task_.width, 0.0f);
    }
    const float* dv[kMaxTaps];
    const float* w[kMaxTaps];
    for (int64_t j = 0; j <= last; ++j) {
      dv[j] = Dv(t + j);
      w[j] = w_.w[taps_ - 1 - j];
    }
    if (kTaps > 0 && last == kTaps - 1) {
      Gather<kTaps>(dv, w, kTaps, dx);
    } else {
      Gather<0>(dv, w, last + 1, dx);
    }
  }

  template <int kUsers>
  HWY_INLINE void Gather(const float* const* dv, const float* const* w,
                         int64_t users, TX* dx) {
    const int64_t n = kUsers > 0 ? kUsers : users;
    ForLanes(task_.width, [&](int64_t i, auto lanes) HWY_ATTR {
      VF sum = LoadF(dx_ + i);
      for (int64_t j = 0; j < n; ++j) {
        sum = hn::MulAdd(LoadF(w[j] + i), LoadF(dv[j] + i), sum);
      }
      StoreF(sum, dx + i, lanes);
    });
  }

  // Gradient of the carry's input at time t < 0.
  void CarryGradient(int64_t t) {
    const int64_t slots = taps_ - 1;
    const int64_t last = LastUser(t);
    int64_t slot;
    const bool kept = InCarryOut(t, &slot);
    for (int64_t i = 0; i < task_.width; ++i) {
      const int64_t e = task_.b * args_.channels + task_.c0 + i;
      float sum = kept ? grad_.dcarry_out[e * slots + slot] : 0.0f;
      for (int64_t j = -t; j <= last; ++j) {
        sum += w_.w[taps_ - 1 - j][i] * Dv(t + j)[i];
      }
      grad_.dcarry_in[e * slots + slots + t] = sum;
    }
  }

  const CausalConv1dArgs& args_;
  const CausalConv1dBackwardArgs& grad_;
  const ConvTask& task_;
  const int64_t taps_;
  Scratch scratch_;
  const ConvWeights w_;
  Lines lines_;
  const bool stream_;
  bool dv_in_lines_ = false;
  float* ring_;    // [K][kConvBlock]: dv of row t at t % K
  float* copies_;  // [K][kConvBlock]
  float* dx_;      // [kConvBlock]: what dx starts from
  float* sink_;    // [K + 1][kConvBlock]: sums that another task owns
  float* dw_[kMaxTaps + 1];
};

template <int kTaps>
void BackwardTypes(const CausalConv1dArgs& args,
                   const CausalConv1dBackwardArgs& grad, const ConvTask& task,
                   float* sums) {
  const bool x32 = args.x.dtype == DType::kF32;
  const bool y32 = grad.dy.dtype == DType::kF32;
  if (x32 && y32) {
    ConvBackward<kTaps, float, float>(args, grad, task, sums).Run();
  } else if (x32) {
    ConvBackward<kTaps, float, BFloat16>(args, grad, task, sums).Run();
  } else if (y32) {
    ConvBackward<kTaps, BFloat16, float>(args, grad, task, sums).Run();
  } else {
    ConvBackward<kTaps, BFloat16, BFloat16>(args, grad, task, sums).Run();
  }
}

// `sums` [K + 1][E rounded]: += dw by tap, then dbias.
void ConvBackwardTask(const CausalConv1dArgs& args,
                      const CausalConv1dBackwardArgs& grad,
                      const ConvTask& task, float* sums) {
  const FlushDenormals flush;
  if (args.taps == 4) return BackwardTypes<4>(args, grad, task, sums);
  BackwardTypes<0>(args, grad, task, sums);
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {
namespace {

HWY_EXPORT(ConvBackwardTask);

}  // namespace

void CausalConv1dBackward(const CausalConv1dArgs& args,
                          const CausalConv1dBackwardArgs& grad) {
  CheckConv(args);
  CARRY_CHECK(grad.dweight != nullptr);
  const ConvTasks tasks(args);
  const int64_t rounded = Scratch::Rounded(args.channels);
  const int64_t threads = std::min<int64_t>(NumThreads(), tasks.size());
  const int64_t part = (args.taps + 1) * rounded;
  Scratch scratch(ScratchSlot::kCall, threads * part);
  float* sums = scratch.Take(threads * part);
  ParallelRanges(tasks.size(), [&](int64_t begin, int64_t end, int thread) {
    float* mine = sums + thread * part;
    std::fill_n(mine, part, 0.0f);
    for (int64_t i = begin; i < end; ++i) {
      HWY_DYNAMIC_DISPATCH(ConvBackwardTask)(args, grad, tasks[i], mine);
    }
  });
  for (int64_t thread = 0; thread < threads; ++thread) {
    const float* from = sums + thread * part;
    for (int64_t e = 0; e < args.channels; ++e) {
      for (int64_t k = 0; k < args.taps; ++k) {
        grad.dweight[e * args.taps + k] += from[k * rounded + e];
      }
      if (grad.dbias != nullptr) {
        grad.dbias[e] += from[args.taps * rounded + e];
      }
    }
  }
}

}  // namespace carry
#endif  // HWY_ONCE
