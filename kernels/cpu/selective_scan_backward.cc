// The scan's backward pass. See selective_scan_layout.h for the layouts.
//
// A thread owns a range of channel groups and goes tile by tile from the end.
// Each group recomputes its tile from the saved state, keeping the decay a and
// q = a h_{t-1} of a block of states, then runs back over it. With AVX-512: 11
// uops to recompute and 8 back for 16 states-times-channels.
//
//   g = dy C + carry;  dB += g dx;  ddx += g B;  p = g q;  ddt += p A;
//   dA += p dt;  carry = g a;  dC = sum_e dy h, with h = dx B + q, is
//   dC += dy q and, once per token, dC += B sum_e(dy dx).
//
// dB and dC are summed over channels lane by lane and over the lanes once a
// tile: per thread, then over threads in their order.

#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/selective_scan_layout.h"
#include "kernels/parallel_for.h"
#include "kernels/selective_scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selective_scan_backward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/selective_scan-inl.h"

#ifndef CARRY_KERNELS_CPU_SCAN_SUMS_
#define CARRY_KERNELS_CPU_SCAN_SUMS_
namespace carry {

// Partial sums of one call, in call scratch.
struct ScanSums {
  float* da;     // [B][group][N][16]
  float* dd;     // [B][group * 16]
  float* dbias;  // [B][group * 16]
  float* dbc;    // per thread: [2][rows of its batch entries][N]
};

}  // namespace carry
#endif  // CARRY_KERNELS_CPU_SCAN_SUMS_

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

constexpr int64_t kBackPanel = 4;
constexpr int64_t kBackWidth = kBackPanel * kScanGroup;
// Of a and q: their store-to-load distance must fit the L1 cache beside the
// sums, 2 * 16 tokens * 4 states * 64 bytes.
constexpr int kBackBlock = 4;

struct BackwardScratch {
  float* a;      // [ng][N][16], in units of log2
  float* carry;  // [ng][N][16]: gradient that enters from the right
  float* bias;   // [ng * 16]
  float* d;      // [ng * 16]
  float* b;      // [kScanTile][N]
  float* c;      // [kScanTile][N]
  float* sum_b;  // [kScanTile][N][16]
  float* sum_c;  // [kScanTile][N][16]
  float* dydx;   // [kScanTile][16]
  float* decay;  // [kScanTile][kBackBlock][16]
  float* q;      // [kScanTile][kBackBlock][16]
  float* dt;     // [kScanTile][kBackWidth], as all below
  float* dx;     // dt u
  float* dy;     // gradient of y before the gate
  float* y;      // y before the gate
  float* ddx;    // gradient of dx; then du
  float* ddt;    // gradient of dt through a, over ln 2; then ddt_raw
  float* slope;  // sigmoid(dt_raw + bias)
  float* dz;     // dout silu'(z); then dz
  float* row;    // [4][kBackWidth], converted rows
  uint32_t keep[kScanTile];

  static int64_t Size(int64_t ng, int64_t n) {
    return 2 * ng * n * kScanGroup + 2 * ng * kScanGroup +
           2 * Scratch::Rounded(kScanTile * n) +
           2 * kScanTile * n * kScanGroup + kScanTile * kScanGroup +
           2 * kScanTile * kBackBlock * kScanGroup +
           (8 * kScanTile + 4) * kBackWidth;
  }
  BackwardScratch(int64_t ng, int64_t n) {
    Scratch s(ScratchSlot::kWorker, Size(ng, n));
    a = s.Take(ng * n * kScanGroup);
    carry = s.Take(ng * n * kScanGroup);
    bias = s.Take(ng * kScanGroup);
    d = s.Take(ng * kScanGroup);
    b = s.Take(kScanTile * n);
    c = s.Take(kScanTile * n);
    sum_b = s.Take(kScanTile * n * kScanGroup);
    sum_c = s.Take(kScanTile * n * kScanGroup);
    dydx = s.Take(kScanTile * kScanGroup);
    decay = s.Take(kScanTile * kBackBlock * kScanGroup);
    q = s.Take(kScanTile * kBackBlock * kScanGroup);
    for (float** p : {&dt, &dx, &dy, &y, &ddx, &ddt, &slope, &dz}) {
      *p = s.Take(kScanTile * kBackWidth);
    }
    row = s.Take(4 * kBackWidth);
  }
};

// One batch entry's channels [g0, g1). dbc [2][T][N] receives += dB, dC.
class BackwardSegment {
 public:
  BackwardSegment(const SelectiveScanArgs& args,
                  const SelectiveScanBackwardArgs& grad, const ScanSums& sums,
                  int64_t b, int64_t g0, int64_t g1, float* db, float* dc)
      : args_(args),
        grad_(grad),
        b_(b),
        g0_(g0),
        g1_(g1),
        n_(args.states),
        row0_(b * args.time),
        groups_(ScanGroups(args.channels)),
        da_(sums.da + (b * groups_ + g0) * n_ * kScanGroup),
        dd_(sums.dd + (b * groups_ + g0) * kScanGroup),
        dbias_(sums.dbias + (b * groups_ + g0) * kScanGroup),
        db_(db),
        dc_(dc),
        s_(g1 - g0, args.states),
        stream_du_(CanStream(grad.du.data, grad.du.dtype, grad.du.stride)),
        stream_ddt_(CanStream(grad.ddt_raw.data, grad.ddt_raw.dtype,
                              grad.ddt_raw.stride)),
        stream_dz_(CanStream(grad.dz.data, grad.dz.dtype, grad.dz.stride)) {}

  void Run() {
    LoadParameters();
    for (int64_t i = ScanTiles(args_.time) - 1; i >= 0; --i) {
      Tile(i * kScanTile);
    }
    if (grad_.dstate_in == nullptr) return;
    for (int64_t g = g0_; g < g1_; ++g) {
      TransposeGroupOut(s_.carry + (g - g0_) * GroupSize(), args_.channels, n_,
                        g, grad_.dstate_in + b_ * args_.channels * n_);
    }
  }

 private:
  int64_t GroupSize() const { return n_ * kScanGroup; }

  void LoadParameters() {
    const int64_t channels = args_.channels;
    for (int64_t g = g0_; g < g1_; ++g) {
      float* carry = s_.carry + (g - g0_) * GroupSize();
      TransposeGroupA(args_.a, channels, n_, g, s_.a + (g - g0_) * GroupSize());
      if (grad_.dstate_out != nullptr) {
        TransposeGroupIn(grad_.dstate_out + b_ * channels * n_, channels, n_, g,
                         carry);
      } else {
        std::fill_n(carry, GroupSize(), 0.0f);
      }
    }
    const int64_t width = (g1_ - g0_) * kScanGroup;
    for (int64_t i = 0; i < width; ++i) {
      const int64_t e = g0_ * kScanGroup + i;
      const bool valid = e < channels;
      s_.bias[i] = valid && args_.dt_bias != nullptr ? args_.dt_bias[e] : 0.0f;
      s_.d[i] = valid && args_.d != nullptr ? args_.d[e] : 0.0f;
    }
    std::fill_n(da_, (g1_ - g0_) * GroupSize(), 0.0f);
    std::fill_n(dd_, width, 0.0f);
    std::fill_n(dbias_, width, 0.0f);
  }

  void Tile(int64_t t0) {
    const int64_t rows = std::min(kScanTile, args_.time - t0);
    LoadTile(args_.b, row0_ + t0, rows, s_.b);
    LoadTile(args_.c, row0_ + t0, rows, s_.c);
    bool reset = false;
    for (int64_t t = 0; t < rows; ++t) {
      const bool start = args_.document_start != nullptr &&
                         args_.document_start[row0_ + t0 + t] != 0;
      s_.keep[t] = start ? 0u : ~0u;
      reset |= start;
    }
    std::fill_n(s_.sum_b, rows * GroupSize(), 0.0f);
    std::fill_n(s_.sum_c, rows * GroupSize(), 0.0f);
    std::fill_n(s_.dydx, rows * kScanGroup, 0.0f);
    for (int64_t g = g0_; g < g1_; g += kBackPanel) {
      Panel(t0, rows, g, std::min(g + kBackPanel, g1_), reset);
    }
    for (int64_t t = 0; t < rows; ++t) {
      const float dydx = SumGroup(s_.dydx + t * kScanGroup);
      for (int64_t n = 0; n < n_; ++n) {
        const int64_t at = (t * n_ + n) * kScanGroup;
        const int64_t to = (t0 + t) * n_ + n;
        db_[to] += SumGroup(s_.sum_b + at);
        dc_[to] += SumGroup(s_.sum_c + at) + s_.b[t * n_ + n] * dydx;
      }
    }
  }

  static HWY_INLINE float SumGroup(const float* p) {
    VF sum = LoadF(p);
    for (int64_t i = kLanes; i < kScanGroup; i += kLanes) {
      sum = hn::Add(sum, LoadF(p + i));
    }
    return Sum(sum);
  }

  void Panel(int64_t t0, int64_t rows, int64_t g, int64_t g_end, bool reset) {
    const int64_t col = g * kScanGroup;
    const int64_t width = std::min(args_.channels, g_end * kScanGroup) - col;
    for (int64_t t = 0; t < rows; ++t) Prepare(t, row0_ + t0 + t, col, width);
    SetPrefetch(t0, g_end);
    const int64_t tile = b_ * ScanTiles(args_.time) + t0 / kScanTile;
    for (int64_t i = g; i < g_end; ++i) {
      const float* saved = grad_.saved + (tile * groups_ + i) * GroupSize();
      if (reset) {
        Group<true>(i - g0_, i - g, rows, saved);
      } else {
        Group<false>(i - g0_, i - g, rows, saved);
      }
    }
    for (int64_t t = 0; t < rows; ++t) Finish(t, row0_ + t0 + t, col, width);
  }

  // Everything of one row that the states do not enter.
  HWY_INLINE void Prepare(int64_t t, int64_t row, int64_t col, int64_t width) {
    const float* u = RowAsFloat(args_.u, row, col, width, s_.row);
    const float* raw =
        RowAsFloat(args_.dt_raw, row, col, width, s_.row + kBackWidth);
    const float* dout =
        RowAsFloat(grad_.dout, row, col, width, s_.row + 2 * kBackWidth);
    const bool gated = args_.z.data != nullptr;
    const float* z =
        gated ? RowAsFloat(args_.z, row, col, width, s_.row + 3 * kBackWidth)
              : nullptr;
    const int64_t channel = col - g0_ * kScanGroup;
    const int64_t at = t * kBackWidth;
    for (int64_t i = 0; i < WholeGroups(width); i += kLanes) {
      const VF ui = LoadF(u + i);
      const VF x = hn::Add(LoadF(raw + i), LoadF(s_.bias + channel + i));
      const VF e = ExpMinusAbs(x);
      const VF dt = SoftplusFrom(x, e);
      const VF dx = hn::Mul(dt, ui);
      VF dy = LoadF(dout + i);
      if (gated) {
        const VF zi = LoadF(z + i);
        const VF s = Sigmoid(zi);
        const VF gate = hn::Mul(zi, s);
        // silu' = s + silu (1 - s)
        const VF slope = hn::MulAdd(gate, hn::Sub(Set(1.0f), s), s);
        StoreF(hn::Mul(dy, slope), s_.dz + at + i);
        dy = hn::Mul(dy, gate);
      }
      StoreF(dt, s_.dt + at + i);
      StoreF(dx, s_.dx + at + i);
      StoreF(dy, s_.dy + at + i);
      StoreF(hn::Mul(LoadF(s_.d + channel + i), ui), s_.y + at + i);
      StoreF(SigmoidFrom(x, e), s_.slope + at + i);
      StoreF(Zero(), s_.ddx + at + i);
      StoreF(Zero(), s_.ddt + at + i);
      float* dydx = s_.dydx + t * kScanGroup + i % kScanGroup;
      StoreF(hn::MulAdd(dy, dx, LoadF(dydx)), dydx);
    }
  }

  // du, ddt_raw, dz of one row, and the sums over time that need no state.
  HWY_INLINE void Finish(int64_t t, int64_t row, int64_t col, int64_t width) {
    const float* u = RowAsFloat(args_.u, row, col, width, s_.row);
    const int64_t channel = col - g0_ * kScanGroup;
    const int64_t at = t * kBackWidth;
    for (int64_t i = 0; i < WholeGroups(width); i += kLanes) {
      const VF ui = LoadF(u + i);
      const VF dy = LoadF(s_.dy + at + i);
      const VF ddx = LoadF(s_.ddx + at + i);
      VF du = hn::Mul(ddx, LoadF(s_.dt + at + i));
      du = hn::MulAdd(dy, LoadF(s_.d + channel + i), du);
      StoreF(du, s_.ddx + at + i);
      VF ddt = hn::Mul(LoadF(s_.ddt + at + i), Set(kLn2));
      ddt = hn::MulAdd(ddx, ui, ddt);
      ddt = hn::Mul(ddt, LoadF(s_.slope + at + i));
      StoreF(ddt, s_.ddt + at + i);
      float* dd = dd_ + channel + i;
      StoreF(hn::MulAdd(dy, ui, LoadF(dd)), dd);
      float* dbias = dbias_ + channel + i;
      StoreF(hn::Add(ddt, LoadF(dbias)), dbias);
      if (args_.z.data != nullptr) {
        StoreF(hn::Mul(LoadF(s_.dz + at + i), LoadF(s_.y + at + i)),
               s_.dz + at + i);
      }
    }
    StoreRow(s_.ddx + at, grad_.du, row, col, width, stream_du_);
    StoreRow(s_.ddt + at, grad_.ddt_raw, row, col, width, stream_ddt_);
    if (args_.z.data != nullptr && grad_.dz.data != nullptr) {
      StoreRow(s_.dz + at, grad_.dz, row, col, width, stream_dz_);
    }
  }

  void SetPrefetch(int64_t t0, int64_t next_group) {
    int64_t t = t0;
    if (next_group >= g1_) {
      next_group = g0_;
      t -= kScanTile;
    }
    const int64_t rows = t < 0 ? 0 : std::min(kScanTile, args_.time - t);
    const int64_t col = next_group * kScanGroup;
    next_[0] = Prefetcher::Of(args_.u, row0_ + t, rows, col);
    next_[1] = Prefetcher::Of(args_.dt_raw, row0_ + t, rows, col);
    next_[2] = Prefetcher::Of(args_.z, row0_ + t, rows, col);
    next_[3] = Prefetcher::Of(grad_.dout, row0_ + t, rows, col);
  }

  template <bool kReset>
  HWY_INLINE void Group(int64_t g, int64_t in_panel, int64_t rows,
                        const float* saved) {
    for (int64_t lane = 0; lane < kScanGroup; lane += kLanes) {
      ForStateBlocks<kBackBlock>(n_, [&](int64_t n, auto size) HWY_ATTR {
        const int64_t state = g * GroupSize() + n * kScanGroup + lane;
        const int64_t at = in_panel * kScanGroup + lane;
        const int64_t fetch = lane == 0 ? in_panel * 64 : -1;
        Recompute<kReset, size.value>(saved + n * kScanGroup + lane, state, n,
                                      at, rows, fetch);
        Reverse<size.value>(state, n, lane, at, rows);
      });
    }
  }

  // a and q = a h_{t-1} of kBlock states over the tile; adds to y.
  template <bool kReset, int kBlock>
  HWY_INLINE void Recompute(const float* HWY_RESTRICT saved, int64_t state,
                            int64_t n, int64_t at, int64_t rows,
                            int64_t fetch) {
    const float* HWY_RESTRICT dts = s_.dt + at;
    const float* HWY_RESTRICT dxs = s_.dx + at;
    const float* HWY_RESTRICT bs = s_.b + n;
    const float* HWY_RESTRICT cs = s_.c + n;
    float* HWY_RESTRICT ys = s_.y + at;
    float* HWY_RESTRICT decays = s_.decay;
    float* HWY_RESTRICT qs = s_.q;
    VF a[kBlock], h[kBlock];
    for (int j = 0; j < kBlock; ++j) {
      a[j] = LoadF(s_.a + state + j * kScanGroup);
      h[j] = LoadF(saved + j * kScanGroup);
      // The same block of the next group.
      if (fetch >= 0) {
        __builtin_prefetch(saved + j * kScanGroup + GroupSize(), 0, 3);
      }
    }
    for (int64_t t = 0; t < rows; ++t) {
      const VF dt = LoadF(dts + t * kBackWidth);
      const VF dx = LoadF(dxs + t * kBackWidth);
      VF y = LoadF(ys + t * kBackWidth);
      if (fetch >= 0) {
        if (n == 0) next_[0].Touch(t, fetch);
        if (n == 0) next_[1].Touch(t, fetch);
        if (n + kBlock >= n_) next_[2].Touch(t, fetch);
        if (n + kBlock >= n_) next_[3].Touch(t, fetch);
      }
      for (int j = 0; j < kBlock; ++j) {
        VF decay = Exp2NonPositive(hn::Mul(dt, a[j]));
        if constexpr (kReset) {
          decay = hn::And(decay, KeepMask(s_.keep + t));
          h[j] = hn::And(h[j], KeepMask(s_.keep + t));
        }
        const VF q = hn::Mul(decay, h[j]);
        StoreF(decay, decays + (t * kBlock + j) * kLanes);
        StoreF(q, qs + (t * kBlock + j) * kLanes);
        h[j] = hn::MulAdd(dx, Set(bs[t * n_ + j]), q);
        y = hn::MulAdd(h[j], Set(cs[t * n_ + j]), y);
      }
      StoreF(y, ys + t * kBackWidth);
    }
  }

  template <int kBlock>
  HWY_INLINE void Reverse(int64_t state, int64_t n, int64_t lane, int64_t at,
                          int64_t rows) {
    const float* HWY_RESTRICT dts = s_.dt + at;
    const float* HWY_RESTRICT dxs = s_.dx + at;
    const float* HWY_RESTRICT dys = s_.dy + at;
    const float* HWY_RESTRICT bs = s_.b + n;
    const float* HWY_RESTRICT cs = s_.c + n;
    const float* HWY_RESTRICT decays = s_.decay;
    const float* HWY_RESTRICT qs = s_.q;
    float* HWY_RESTRICT ddxs = s_.ddx + at;
    float* HWY_RESTRICT ddts = s_.ddt + at;
    float* HWY_RESTRICT sum_b = s_.sum_b + n * kScanGroup + lane;
    float* HWY_RESTRICT sum_c = s_.sum_c + n * kScanGroup + lane;
    VF a[kBlock], carry[kBlock], da[kBlock];
    for (int j = 0; j < kBlock; ++j) {
      a[j] = LoadF(s_.a + state + j * kScanGroup);
      carry[j] = LoadF(s_.carry + state + j * kScanGroup);
      da[j] = LoadF(da_ + state + j * kScanGroup);
    }
    for (int64_t t = rows - 1; t >= 0; --t) {
      const VF dt = LoadF(dts + t * kBackWidth);
      const VF dx = LoadF(dxs + t * kBackWidth);
      const VF dy = LoadF(dys + t * kBackWidth);
      VF ddx = LoadF(ddxs + t * kBackWidth);
      VF ddt = LoadF(ddts + t * kBackWidth);
      for (int j = 0; j < kBlock; ++j) {
        const VF q = LoadF(qs + (t * kBlock + j) * kLanes);
        float* to_b = sum_b + t * GroupSize() + j * kScanGroup;
        float* to_c = sum_c + t * GroupSize() + j * kScanGroup;
        const VF g = hn::MulAdd(dy, Set(cs[t * n_ + j]), carry[j]);
        StoreF(hn::MulAdd(dy, q, LoadF(to_c)), to_c);
        StoreF(hn::MulAdd(g, dx, LoadF(to_b)), to_b);
        ddx = hn::MulAdd(g, Set(bs[t * n_ + j]), ddx);
        const VF p = hn::Mul(g, q);
        ddt = hn::MulAdd(p, a[j], ddt);
        da[j] = hn::MulAdd(p, dt, da[j]);
        carry[j] = hn::Mul(g, LoadF(decays + (t * kBlock + j) * kLanes));
      }
      StoreF(ddx, ddxs + t * kBackWidth);
      StoreF(ddt, ddts + t * kBackWidth);
    }
    for (int j = 0; j < kBlock; ++j) {
      StoreF(carry[j], s_.carry + state + j * kScanGroup);
      StoreF(da[j], da_ + state + j * kScanGroup);
    }
  }

  const SelectiveScanArgs& args_;
  const SelectiveScanBackwardArgs& grad_;
  const int64_t b_, g0_, g1_, n_, row0_, groups_;
  float* const da_;
  float* const dd_;
  float* const dbias_;
  float* const db_;
  float* const dc_;
  BackwardScratch s_;
  const bool stream_du_, stream_ddt_, stream_dz_;
  Prefetcher next_[4];
};

// One thread's groups. `dbc` [2][T * batch entries touched][N].
void ScanBackwardRange(const SelectiveScanArgs& args,
                       const SelectiveScanBackwardArgs& grad,
                       const ScanSums& sums, int64_t begin, int64_t end,
                       float* dbc) {
  const FlushDenormals flush;
  const int64_t groups = ScanGroups(args.channels);
  const int64_t first = begin / groups;
  const int64_t entries = (end - 1) / groups - first + 1;
  const int64_t size = args.time * args.states;
  std::fill_n(dbc, 2 * entries * size, 0.0f);
  ForScanSegments(
      groups, begin, end, [&](int64_t b, int64_t g0, int64_t g1) HWY_ATTR {
        float* db = dbc + (b - first) * size;
        BackwardSegment(args, grad, sums, b, g0, g1, db, db + entries * size)
            .Run();
      });
  hwy::FlushStream();
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {
namespace {

HWY_EXPORT(ScanBackwardRange);

// What one thread did: its range of batch * groups and its dB, dC.
struct ThreadPart {
  int64_t begin, end;
  int64_t first, entries;  // Batch entries.
  float* dbc;
};

void StoreElement(const MatView& v, int64_t row, int64_t col, float x) {
  const int64_t at = row * v.stride + col;
  if (v.dtype == DType::kF32) {
    static_cast<float*>(v.data)[at] = x;
  } else {
    static_cast<BFloat16*>(v.data)[at] = ToBFloat16(x);
  }
}

// dB and dC of all threads, in their order.
void ReduceDbc(const SelectiveScanArgs& args,
               const SelectiveScanBackwardArgs& grad,
               const std::vector<ThreadPart>& parts) {
  const int64_t size = args.time * args.states;
  ParallelFor(args.batch * args.time, [&](int64_t row) {
    const int64_t b = row / args.time;
    const int64_t t = row % args.time;
    for (int64_t n = 0; n < args.states; ++n) {
      float db = 0, dc = 0;
      for (const ThreadPart& part : parts) {
        if (b < part.first || b >= part.first + part.entries) continue;
        const float* at =
            part.dbc + (b - part.first) * size + t * args.states + n;
        db += at[0];
        dc += at[part.entries * size];
      }
      StoreElement(grad.db, row, n, db);
      StoreElement(grad.dc, row, n, dc);
    }
  });
}

// dA, dD and ddt_bias of all batch entries, in their order.
void ReduceParameters(const SelectiveScanArgs& args,
                      const SelectiveScanBackwardArgs& grad,
                      const ScanSums& sums) {
  const int64_t groups = ScanGroups(args.channels);
  const int64_t group_size = args.states * kScanGroup;
  ParallelFor(groups, [&](int64_t g) {
    const int64_t e0 = g * kScanGroup;
    const int64_t valid = std::min(kScanGroup, args.channels - e0);
    for (int64_t b = 0; b < args.batch; ++b) {
      const float* da = sums.da + (b * groups + g) * group_size;
      const float* dd = sums.dd + (b * groups + g) * kScanGroup;
      const float* dbias = sums.dbias + (b * groups + g) * kScanGroup;
      for (int64_t i = 0; i < valid; ++i) {
        for (int64_t n = 0; n < args.states; ++n) {
          grad.da[(e0 + i) * args.states + n] += da[n * kScanGroup + i];
        }
        if (grad.dd != nullptr) grad.dd[e0 + i] += dd[i];
        if (grad.ddt_bias != nullptr) grad.ddt_bias[e0 + i] += dbias[i];
      }
    }
  });
}

}  // namespace

void SelectiveScanBackward(const SelectiveScanArgs& args,
                           const SelectiveScanBackwardArgs& grad) {
  CARRY_CHECK(grad.saved != nullptr && grad.da != nullptr);
  const int64_t groups = ScanGroups(args.channels);
  const int64_t tasks = args.batch * groups;
  const int64_t threads = std::min<int64_t>(NumThreads(), tasks);
  std::vector<ThreadPart> parts(threads);
  int64_t dbc_size = 0;
  for (int64_t i = 0; i < threads; ++i) {
    ThreadPart& part = parts[i];
    part.begin = tasks * i / threads;
    part.end = tasks * (i + 1) / threads;
    part.first = part.begin / groups;
    part.entries = (part.end - 1) / groups - part.first + 1;
    dbc_size += Scratch::Rounded(2 * part.entries * args.time * args.states);
  }
  const int64_t channels = tasks * kScanGroup;
  Scratch scratch(ScratchSlot::kCall, channels * (args.states + 2) + dbc_size);
  ScanSums sums;
  sums.da = scratch.Take(channels * args.states);
  sums.dd = scratch.Take(channels);
  sums.dbias = scratch.Take(channels);
  for (ThreadPart& part : parts) {
    part.dbc = scratch.Take(2 * part.entries * args.time * args.states);
  }
  ParallelFor(threads, [&](int64_t i) {
    const ThreadPart& part = parts[i];
    HWY_DYNAMIC_DISPATCH(ScanBackwardRange)
    (args, grad, sums, part.begin, part.end, part.dbc);
  });
  ReduceDbc(args, grad, parts);
  ReduceParameters(args, grad, sums);
}

}  // namespace carry
#endif  // HWY_ONCE
