// A thread takes a range of rows (forward, top down) or of rows from the end
// (backward) of one block of channels: the K rows that a token sees then stay
// in the L1 cache. The first K - 1 rows, and those behind a document start, go
// through a copy of their taps in fp32, zero where a tap does not reach.

#include "kernels/causal_conv1d.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/causal_conv1d.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

#ifndef CARRY_KERNELS_CPU_CAUSAL_CONV1D_
#define CARRY_KERNELS_CPU_CAUSAL_CONV1D_
namespace carry {

constexpr int64_t kMaxTaps = 8;
// Channels of a block: rows of 2 KB are long enough for the memory, and seven
// of them short enough for L1.
constexpr int64_t kConvBlock = 512;
// The published number of taps has a path of its own, four rows at a time: it
// loads 7 rows for 16 products, and four chains of silu side by side.
constexpr int kFastTaps = 4;
constexpr int kFastRows = 4;
// Most and fewest rows of a task. Each task reads K - 1 rows of its neighbour;
// backward it also computes them.
constexpr int64_t kMaxConvRows = 256;
constexpr int64_t kMinConvRows = 32;

struct ConvTask {
  int64_t b, t0, t1;  // Rows of batch entry b.
  int64_t c0, width;  // Channels.
};

// How many of the taps before t reach a token: at most K - 1, not past the
// start of the sequence's carry, not past t's document.
inline int64_t ConvReach(const CausalConv1dArgs& args, int64_t b, int64_t t) {
  const int64_t most = args.taps - 1;
  if (args.document_start == nullptr) return most;
  const uint8_t* start = args.document_start + b * args.time;
  for (int64_t j = 0; j < most; ++j) {
    if (t - j < 0) return most;
    if (start[t - j] != 0) return j;
  }
  return most;
}

// Whether no token of [t0, t1) sees less than its K - 1 predecessors in x.
inline bool ConvIsPlain(const CausalConv1dArgs& args, int64_t b, int64_t t0,
                        int64_t t1) {
  if (t0 < args.taps - 1) return false;
  for (int64_t t = t0; t < t1; ++t) {
    if (ConvReach(args, b, t) < args.taps - 1) return false;
  }
  return true;
}

// Input x at time t, which is a carry's slot where t < 0.
inline float InputAt(const CausalConv1dArgs& args, int64_t b, int64_t t,
                     int64_t e) {
  if (t < 0) {
    if (args.carry_in == nullptr) return 0.0f;
    const int64_t slots = args.taps - 1;
    return args.carry_in[(b * args.channels + e) * slots + slots + t];
  }
  const int64_t at = (b * args.time + t) * args.x.stride + e;
  return args.x.dtype == DType::kF32
             ? static_cast<const float*>(args.x.data)[at]
             : ToFloat(static_cast<const BFloat16*>(args.x.data)[at]);
}

// The K inputs that t sees, as fp32 rows in `rows` [K][kConvBlock].
inline void CopyTaps(const CausalConv1dArgs& args, const ConvTask& task,
                     int64_t t, int64_t reach, float* rows) {
  for (int64_t k = 0; k < args.taps; ++k) {
    const int64_t back = args.taps - 1 - k;
    float* row = rows + k * kConvBlock;
    if (back > reach || (back > t && args.carry_in == nullptr)) {
      std::fill_n(row, task.width, 0.0f);
      continue;
    }
    for (int64_t i = 0; i < task.width; ++i) {
      row[i] = InputAt(args, task.b, t - back, task.c0 + i);
    }
  }
}

}  // namespace carry
#endif  // CARRY_KERNELS_CPU_CAUSAL_CONV1D_

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

template <class T>
HWY_INLINE const T* RowPointer(const ConstMatView& v, int64_t row,
                               int64_t col) {
  return static_cast<const T*>(v.data) + row * v.stride + col;
}
template <class T>
HWY_INLINE T* RowPointer(const MatView& v, int64_t row, int64_t col) {
  return static_cast<T*>(v.data) + row * v.stride + col;
}

// Weights of a block of channels as [K][width], and its bias.
struct ConvWeights {
  const float* w[kMaxTaps];
  const float* bias;

  static int64_t Size(int64_t taps) { return (taps + 1) * kConvBlock; }
  ConvWeights(const CausalConv1dArgs& args, int64_t c0, int64_t width,
              Scratch* scratch) {
    for (int64_t k = 0; k < args.taps; ++k) {
      float* row = scratch->Take(kConvBlock);
      for (int64_t i = 0; i < width; ++i) {
        row[i] = args.weight[(c0 + i) * args.taps + k];
      }
      std::fill(row + width, row + kConvBlock, 0.0f);
      w[k] = row;
    }
    float* row = scratch->Take(kConvBlock);
    std::fill_n(row, kConvBlock, 0.0f);
    if (args.bias != nullptr) std::copy_n(args.bias + c0, width, row);
    bias = row;
  }
};

// v of one vector.
template <int kTaps, class TX, class Lanes>
HWY_INLINE VF Convolve(const TX* const* x, const ConvWeights& w, int64_t taps,
                       int64_t i, Lanes lanes) {
  VF v = LoadF(w.bias + i);
  const int64_t n = kTaps > 0 ? kTaps : taps;
  for (int64_t k = 0; k < n; ++k) {
    v = hn::MulAdd(LoadF(w.w[k] + i), LoadF(x[k] + i, lanes), v);
  }
  return v;
}

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

// Tells the L2 cache of a line in each of kFastRows rows. Those lie a row's
// stride apart, which hides them from the hardware prefetcher; L1 is full.
template <class T>
HWY_INLINE void PrefetchRows(const T* p, int64_t stride) {
  for (int r = 0; r < kFastRows; ++r) __builtin_prefetch(p + r * stride, 0, 2);
}

// v of kFastRows rows of one vector; x [kFastRows + kFastTaps - 1].
HWY_INLINE void ConvolveRows(const VF (&x)[kFastRows + kFastTaps - 1],
                             const ConvWeights& w, int64_t i, VF* v) {
  const VF bias = LoadF(w.bias + i);
  for (int r = 0; r < kFastRows; ++r) v[r] = bias;
  for (int k = 0; k < kFastTaps; ++k) {
    const VF wk = LoadF(w.w[k] + i);
    for (int r = 0; r < kFastRows; ++r) v[r] = hn::MulAdd(wk, x[r + k], v[r]);
  }
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
template <class TX, class TY>
HWY_INLINE void ForwardRows(const CausalConv1dArgs& args, const MatView& y,
                            const ConvTask& task, int64_t row,
                            const ConvWeights& w, bool stream, bool ahead) {
  const int64_t stride = args.x.stride, y_stride = y.stride;
  const TX* HWY_RESTRICT x0 =
      RowPointer<TX>(args.x, row - kFastTaps + 1, task.c0);
  const TX* next = x0 + (ahead ? 2 * kFastRows - 1 : 0) * stride;
  TY* HWY_RESTRICT y0 = RowPointer<TY>(y, row, task.c0);
  const bool silu = args.silu;
  const auto convolve = [&](int64_t i, auto lanes, VF * v) HWY_ATTR {
    VF x[kFastRows + kFastTaps - 1];
    for (int r = 0; r < kFastRows + kFastTaps - 1; ++r) {
      x[r] = LoadF(x0 + r * stride + i, lanes);
    }
    ConvolveRows(x, w, i, v);
  };
  constexpr int kJoined = kLineVectors<TY>;
  int64_t i = 0;
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
  const int64_t taps = args.taps;
  Scratch scratch(ScratchSlot::kWorker,
                  ConvWeights::Size(taps) + taps * kConvBlock);
  const ConvWeights w(args, task.c0, task.width, &scratch);
  float* copies = scratch.Take(taps * kConvBlock);
  const bool stream =
      ShouldStream<TY>(out.y) && CanStreamLines<kLineVectors<TY>>(out.y);
  for (int64_t t = task.t0; t < task.t1; ++t) {
    const int64_t row = task.b * args.time + t;
    if constexpr (kTaps == kFastTaps) {
      const int64_t end = t + kFastRows;
      if (end <= task.t1 && ConvIsPlain(args, task.b, t, end)) {
        const bool ahead = end + kFastRows <= task.t1;
        ForwardRows<TX, TY>(args, out.y, task, row, w, stream, ahead);
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
                 ConvWeights::Size(taps_) + (3 * taps_ + 3) * kConvBlock),
        w_(args, task.c0, task.width, &scratch_),
        stream_(ShouldStream<TX>(grad.dx)) {
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
          Rows(begin, begin - kFastRows >= task_.t0 + kFastTaps);
          t = begin;
          continue;
        }
      }
      Row(t, t < task_.t1 ? real : ignored);
      if (t < task_.t1) InputGradient(t);
    }
    hwy::FlushStream();
    if (task_.t0 != 0 || grad_.dcarry_in == nullptr) return;
    for (int64_t t = -1; t > -taps_; --t) CarryGradient(t);
  }

 private:
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

  // Rows [t, t + kFastRows) at once: dv, dx and the sums. `ahead`: rows before.
  HWY_INLINE void Rows(int64_t t, bool ahead) {
    constexpr int kInputs = kFastRows + kFastTaps - 1;
    const int64_t row = task_.b * args_.time + t;
    const int64_t stride = args_.x.stride, dy_stride = grad_.dy.stride;
    const int64_t dx_stride = grad_.dx.stride, back = ahead ? kFastRows : 0;
    const TX* HWY_RESTRICT x0 =
        RowPointer<TX>(args_.x, row - kFastTaps + 1, task_.c0);
    const TY* HWY_RESTRICT dy0 = RowPointer<TY>(grad_.dy, row, task_.c0);
    TX* HWY_RESTRICT dx0 = RowPointer<TX>(grad_.dx, row, task_.c0);
    float* ring[kInputs];  // dv of t, t + 1, .. The first four are written.
    for (int r = 0; r < kInputs; ++r) ring[r] = Dv(t + r);
    float* const* dw = dw_;
    const bool silu = args_.silu, stream = stream_;
    ForLanes(task_.width, [&](int64_t i, auto lanes) HWY_ATTR {
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
  const bool stream_;
  float* ring_;    // [K][kConvBlock]: dv of row t at t % K
  float* copies_;  // [K][kConvBlock]
  float* dx_;      // [kConvBlock]: what dx starts from
  float* sink_;    // [K + 1][kConvBlock]: sums that another task owns
  float* dw_[kMaxTaps + 1];
};

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

void ConvForward(const CausalConv1dArgs& args,
                 const CausalConv1dForwardOut& out, const ConvTask& task) {
  const FlushDenormals flush;
  if (args.taps == 4) return ForwardTypes<4>(args, out, task);
  ForwardTypes<0>(args, out, task);
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

HWY_EXPORT(ConvForward);
HWY_EXPORT(ConvBackwardTask);

// [B][time chunks][channel blocks] as one range of tasks.
struct ConvTasks {
  explicit ConvTasks(const CausalConv1dArgs& args)
      : args(args), blocks((args.channels + kConvBlock - 1) / kConvBlock) {
    while (rows > kMinConvRows && size() < 4 * NumThreads()) rows /= 2;
  }

  int64_t chunks() const { return (args.time + rows - 1) / rows; }
  int64_t size() const { return args.batch * chunks() * blocks; }
  ConvTask operator[](int64_t i) const {
    const int64_t chunk = i / blocks % chunks();
    const int64_t c0 = i % blocks * kConvBlock;
    return {i / blocks / chunks(), chunk * rows,
            std::min(args.time, (chunk + 1) * rows), c0,
            std::min(kConvBlock, args.channels - c0)};
  }

  const CausalConv1dArgs& args;
  const int64_t blocks;
  int64_t rows = kMaxConvRows;
};

void Check(const CausalConv1dArgs& args) {
  CARRY_CHECK(args.batch >= 1 && args.time >= 1 && args.channels >= 1);
  CARRY_CHECK(args.taps >= 1 && args.taps <= kMaxTaps);
}

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
  Check(args);
  const ConvTasks tasks(args);
  ParallelFor(tasks.size(), [&](int64_t i) {
    HWY_DYNAMIC_DISPATCH(ConvForward)(args, out, tasks[i]);
  });
  if (out.carry_out != nullptr) CarryOut(args, out.carry_out);
}

void CausalConv1dBackward(const CausalConv1dArgs& args,
                          const CausalConv1dBackwardArgs& grad) {
  Check(args);
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
