// The scan's backward pass. See selective_scan_layout.h for the layouts and
// selective_scan_backward-inl.h for the inner loops.
//
// A thread owns a range of channel groups and goes tile by tile from the end.
// A pair of vectors of channels recomputes its tile from the saved state,
// keeping the decay a and q = a h_{t-1} of a block of states, then runs back
// over it. With AVX-512: 11 uops to recompute and 8 back for 16
// states-times-channels. The outputs are written in the loop over the last
// states, past the caches.
//
// dB and dC are summed over channels lane by lane and over the lanes once a
// tile: per thread, then over threads in their order.

#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/selective_scan_layout.h"
#include "kernels/cpu/selective_scan_sums.h"
#include "kernels/parallel_for.h"
#include "kernels/selective_scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selective_scan_backward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/selective_scan_backward-inl.h"
#include "kernels/cpu/selective_scan_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// One batch entry's channels [g0, g1). db and dc [T, N] receive += dB, dC.
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
        du_(grad.du),
        ddt_(grad.ddt_raw),
        dz_(args.z.data != nullptr ? grad.dz : MatView()),
        chunk_((kScanTile * kBackBlock + kBackVectors * n_ - 1) /
               (kBackVectors * n_)),
        streams_(args.z.data != nullptr && CanStreamPairs(grad.du, args.u) &&
                 CanStreamPairs(grad.ddt_raw, args.u) &&
                 CanStreamPairs(grad.dz, args.u)) {}

  // Whether vectors of kBackVectors can be written past the caches as lines.
  static bool CanStreamPairs(const MatView& v, const ConstMatView& like) {
    const bool whole = v.dtype == DType::kF32 || kBackPair * 2 % 64 == 0;
    return whole && v.dtype == like.dtype && CanStreamLines<kBackVectors>(v);
  }

  void Run() {
    LoadParameters();
    for (int64_t i = ScanTiles(args_.time) - 1; i >= 0; --i) {
      Tile(i * kScanTile);
    }
    FinishUpTo(pending_.rows);
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
    LoadTile(args_.b, row0_ + t0, rows, s_.bc);
    LoadTile(args_.c, row0_ + t0, rows, s_.bc + n_);
    bool reset = false;
    for (int64_t t = 0; t < rows; ++t) {
      const bool start = args_.document_start != nullptr &&
                         args_.document_start[row0_ + t0 + t] != 0;
      s_.keep[t] = start ? 0u : ~0u;
      reset |= start;
    }
    std::fill_n(s_.sums, rows * n_ * 2 * kLanes, 0.0f);
    std::fill_n(s_.dydx, rows * kLanes, 0.0f);
    for (int64_t g = g0_; g < g1_;) {
      const int64_t end = PanelEnd(g, g1_, kBackPanel);
      Panel(t0, rows, g, end, reset);
      g = end;
    }
    AddSums(t0, rows);
  }

  // dB and dC of the tile, summed over the lanes.
  void AddSums(int64_t t0, int64_t rows) {
    float* sums = s_.sums;  // In place: [rows][N][2].
    SumEachVector(s_.sums, rows * n_ * 2, sums);
    for (int64_t t = 0; t < rows; ++t) {
      const float dydx = Sum(LoadF(s_.dydx + t * kLanes));
      const float* b = s_.bc + 2 * t * n_;
      float* db = db_ + (t0 + t) * n_;
      float* dc = dc_ + (t0 + t) * n_;
      const float* from = sums + t * n_ * 2;
      int64_t n = 0;
#if HWY_TARGET != HWY_SCALAR
      for (; n + kLanes <= n_; n += kLanes) {
        VF sum_b, sum_c;
        hn::LoadInterleaved2(DF(), from + 2 * n, sum_b, sum_c);
        sum_c = hn::MulAdd(LoadF(b + n), Set(dydx), sum_c);
        StoreF(hn::Add(LoadF(db + n), sum_b), db + n);
        StoreF(hn::Add(LoadF(dc + n), sum_c), dc + n);
      }
#endif
      for (; n < n_; ++n) {
        db[n] += from[2 * n];
        dc[n] += from[2 * n + 1] + b[n] * dydx;
      }
    }
  }

  void Panel(int64_t t0, int64_t rows, int64_t g, int64_t g_end, bool reset) {
    const int64_t col = g * kScanGroup;
    const int64_t width = std::min(args_.channels, g_end * kScanGroup) - col;
    t0_ = t0;
    group_ = g;
    next_t_ = g_end < g1_ ? t0 : t0 - kScanTile;
    next_group_ = g_end < g1_ ? g_end : g0_;
    for (int64_t t = 0; t < rows; ++t) {
      FinishUpTo(t + 1);  // Of the panel before; Prepare takes its row's place.
      if (args_.z.data != nullptr) {
        Prepare<true>(t, row0_ + t0 + t, col, width);
      } else {
        Prepare<false>(t, row0_ + t0 + t, col, width);
      }
      if (n_ <= kBackBlock) AheadInRow(t);
    }
    FinishUpTo(pending_.rows);
    const int64_t vectors = (g_end - g) * (kScanGroup / kLanes);
    int64_t i = 0;
    for (; i + kBackVectors <= vectors; i += kBackVectors) {
      if (reset) {
        Vectors<true, kBackVectors>(t0, rows, g, i);
      } else {
        Vectors<false, kBackVectors>(t0, rows, g, i);
      }
    }
    for (; i < vectors; ++i) Vectors<true, 1>(t0, rows, g, i);
  }

  // Everything of one row that the states do not enter.
  template <bool kGate>
  HWY_INLINE void Prepare(int64_t t, int64_t row, int64_t col, int64_t width) {
    const float* u = RowAsFloat(args_.u, row, col, width, s_.row);
    const float* raw =
        RowAsFloat(args_.dt_raw, row, col, width, s_.row + kBackWidth);
    const float* dout =
        RowAsFloat(grad_.dout, row, col, width, s_.row + 2 * kBackWidth);
    const float* z =
        kGate ? RowAsFloat(args_.z, row, col, width, s_.row + 3 * kBackWidth)
              : nullptr;
    const int64_t channel = col - g0_ * kScanGroup;
    const float* bias = s_.bias + channel;
    float* dd = dd_ + channel;
    float* HWY_RESTRICT token = s_.token + t * kBackRow;
    VF dydx = LoadF(s_.dydx + t * kLanes);
    ForBatches<kScanBatch>(
        WholeGroups(width), [&](int64_t i, auto count) HWY_ATTR {
          constexpr int kN = count.value;
          VF x[kN], dt[kN], slope[kN], dy[kN];
          for (int j = 0; j < kN; ++j) {
            const int64_t at = i + j * kLanes;
            x[j] = hn::Add(LoadF(raw + at), LoadF(bias + at));
            dy[j] = LoadF(dout + at);
          }
          if constexpr (kGate) {
            VF zs[kN], s[kN];
            for (int j = 0; j < kN; ++j) zs[j] = LoadF(z + i + j * kLanes);
            SoftplusAndSigmoid<true>(x, dt, slope, zs, s);
            ApplyGate(zs, s, dy, token + kBackDgate * kBackWidth + i);
          } else {
            Softplus<true>(x, dt, slope);
          }
          for (int j = 0; j < kN; ++j) {
            const int64_t at = i + j * kLanes;
            const VF ui = LoadF(u + at);
            const VF dx = hn::Mul(dt[j], ui);
            StoreF(dt[j], token + kBackDt * kBackWidth + at);
            StoreF(dx, token + kBackDx * kBackWidth + at);
            StoreF(dy[j], token + kBackDy * kBackWidth + at);
            StoreF(slope[j], token + kBackSlope * kBackWidth + at);
            dydx = hn::MulAdd(dy[j], dx, dydx);
            StoreF(hn::MulAdd(dy[j], ui, LoadF(dd + at)), dd + at);
          }
        });
    StoreF(dydx, s_.dydx + t * kLanes);
  }

  // dgate := dy silu'(z) and dy := dy silu(z); s is the sigmoid of z.
  template <int kN>
  static HWY_INLINE void ApplyGate(const VF (&z)[kN], const VF (&s)[kN],
                                   VF (&dy)[kN], float* dgate) {
    for (int j = 0; j < kN; ++j) {
      const VF gate = hn::Mul(z[j], s[j]);
      // silu' = s + silu (1 - s)
      const VF slope = hn::MulAdd(gate, hn::Sub(Set(1.0f), s[j]), s[j]);
      StoreF(hn::Mul(dy[j], slope), dgate + j * kLanes);
      dy[j] = hn::Mul(dy[j], gate);
    }
  }

  // What a loop over vector i of a panel fetches ahead: the same place of the
  // next panel.
  Prefetcher Ahead(const ConstMatView& v, int64_t i) const {
    const int64_t row = next_t_ < 0 ? -1 : row0_ + next_t_;
    return Prefetcher(v, row, kScanTile, next_group_ * kScanGroup + i * kLanes,
                      s_.bc);
  }
  // The states that were saved for the vector behind this one's pair.
  Prefetcher AheadSaved(const StateRows& v, int64_t n, int slots) const {
    Prefetcher ahead(v.saved - n * kScanGroup + slots * GroupSize());
    ahead.stride = n_ * 64 / kScanTile;
    return ahead;
  }
  // An output that does not bypass the caches, where this vector will write.
  Prefetcher AheadOutput(const VectorWriter& writer, int64_t i) const {
    if (writer.stream) return Prefetcher(s_.bc);
    return Prefetcher(writer.view, row0_ + t0_, kScanTile,
                      group_ * kScanGroup + i * kLanes, s_.bc);
  }

  // With a single loop over states: z and dout of the next panel, a row at a
  // time while the rows of this one are prepared.
  void AheadInRow(int64_t t) const {
    for (int64_t i = 0; i < kBackWidth / kLanes; i += kScanGroup / kLanes) {
      for (const ConstMatView& v : {args_.z, grad_.dout}) {
        Prefetcher ahead = Ahead(v, i);
        ahead.base += t * ahead.stride;
        ahead.Next();
      }
    }
  }

  // What the loop-th loop over states of vector i fetches ahead.
  HWY_INLINE void ChooseAhead(int64_t loop, int64_t i, const StateRows& v,
                              int64_t n, int slots, Prefetcher* ahead0,
                              Prefetcher* ahead1) const {
    switch (loop) {
      case 0:
        *ahead0 = Ahead(args_.u, i);
        *ahead1 = Ahead(args_.dt_raw, i);
        return;
      case 1:
        *ahead0 = Ahead(args_.z, i);
        *ahead1 = Ahead(grad_.dout, i);
        return;
      case 2:
        *ahead0 = AheadSaved(v, n, slots);
        *ahead1 = AheadOutput(du_, i);
        return;
      case 3:
        *ahead0 = AheadOutput(ddt_, i);
        *ahead1 = AheadOutput(dz_, i);
        return;
    }
  }

  // Of vector i of the panel that begins with group g.
  StateRows RowsOf(int64_t t0, int64_t g, int64_t i) const {
    const int64_t group = g + i * kLanes / kScanGroup;
    const int64_t lane = i * kLanes % kScanGroup;
    const int64_t at = (group - g0_) * GroupSize() + lane;
    const int64_t tile = b_ * ScanTiles(args_.time) + t0 / kScanTile;
    return {s_.a + at,
            grad_.saved + (tile * groups_ + group) * GroupSize() + lane,
            s_.carry + at, da_ + at};
  }

  // Vectors [i, i + kSlots) of the panel that begins with group g.
  template <bool kReset, int kSlots>
  HWY_NOINLINE void Vectors(int64_t t0, int64_t rows, int64_t g, int64_t i) {
    StateRows v[kSlots];
    for (int k = 0; k < kSlots; ++k) v[k] = RowsOf(t0, g, i + k);
    ForStateBlocks<kBackBlock>(n_, [&](int64_t n, auto size) HWY_ATTR {
      if (n == 0) {
        Block<kReset, true, size.value, kSlots>(v, n, rows, i);
      } else {
        Block<kReset, false, size.value, kSlots>(v, n, rows, i);
      }
      for (int k = 0; k < kSlots; ++k) {
        v[k].a += size.value * kScanGroup;
        v[k].saved += size.value * kScanGroup;
        v[k].carry += size.value * kScanGroup;
        v[k].da += size.value * kScanGroup;
      }
    });
    FinishUpTo(pending_.rows);
    pending_ = {row0_ + t0,
                rows,
                0,
                chunk_,
                g * kScanGroup + i * kLanes,
                kSlots,
                s_.token + i * kLanes};
  }

  template <bool kReset, bool kFirst, int kBlock, int kSlots>
  HWY_INLINE void Block(const StateRows* v, int64_t n, int64_t rows,
                        int64_t i) {
    const int64_t states = n_;
    float* token = s_.token + i * kLanes;
    const float* bc = s_.bc + n;
    for (int k = 0; k < kSlots; ++k) {
      Prefetcher ahead0(s_.bc), ahead1(s_.bc);
      ChooseAhead(n / kBlock, i + k, v[k], n, kSlots, &ahead0, &ahead1);
      FinishUpTo(pending_.next + pending_.chunk);
      Recompute<kReset, kFirst, kBlock>(v[k], token + k * kLanes, bc, states,
                                        s_.chain + 2 * k * kBlock * kLanes,
                                        s_.keep, rows, ahead0, ahead1);
    }
    const int64_t last = rows - 1;
    Reverse<kFirst, kBlock, kSlots>(
        v, token + last * kBackRow, bc + last * 2 * states, states,
        s_.chain + last * kBackChain,
        s_.sums + (last * states + n) * 2 * kLanes, rows);
  }

  // Vectors whose outputs are still to be written. A few rows at a time, in
  // between the loops over the next vectors: the memory takes a line past the
  // caches in ten cycles, and holds a dozen.
  struct Pending {
    int64_t row0 = 0, rows = 0, next = 0;  // Rows of the matrices; those done.
    int64_t chunk = 0;                     // Rows at a time.
    int64_t col = 0;
    int slots = 0;
    const float* token = nullptr;
  };

  HWY_NOINLINE void FinishUpTo(int64_t end) {
    const int64_t stop = std::min(end, pending_.rows);
    const bool whole = pending_.col + pending_.slots * kLanes <= args_.channels;
    if (streams_ && whole && pending_.next < stop &&
        pending_.slots == kBackVectors && pending_.col % kBackPair == 0) {
      if (args_.u.dtype == DType::kF32) {
        FinishStreams<float>(stop);
      } else {
        FinishStreams<BFloat16>(stop);
      }
      return;
    }
    for (; pending_.next < stop; ++pending_.next) {
      for (int k = 0; k < pending_.slots; ++k) {
        Finish(pending_.row0 + pending_.next, pending_.col + k * kLanes,
               pending_.token + pending_.next * kBackRow + k * kLanes);
      }
    }
  }

  // Finish of the pending rows up to `stop` where everything is gated, of one
  // type, and past the caches.
  template <class T>
  HWY_INLINE void FinishStreams(int64_t stop) {
    constexpr int kSlots = kBackVectors;
    const int64_t col = pending_.col, row = pending_.row0 + pending_.next;
    const float* HWY_RESTRICT token = pending_.token + pending_.next * kBackRow;
    const auto at = [&](const auto& v) {
      return static_cast<T*>(
                 const_cast<void*>(static_cast<const void*>(v.data))) +
             row * v.stride + col;
    };
    const T* HWY_RESTRICT u_at = at(args_.u);
    T* HWY_RESTRICT du_at = at(du_.view);
    T* HWY_RESTRICT ddt_at = at(ddt_.view);
    T* HWY_RESTRICT dz_at = at(dz_.view);
    const int64_t channel = col - g0_ * kScanGroup;
    VF d[kSlots], dbias[kSlots];
    for (int k = 0; k < kSlots; ++k) {
      d[k] = LoadF(s_.d + channel + k * kLanes);
      dbias[k] = LoadF(dbias_ + channel + k * kLanes);
    }
    for (; pending_.next < stop; ++pending_.next) {
      VF du[kSlots], ddt[kSlots], dz[kSlots];
      for (int k = 0; k < kSlots; ++k) {
        const float* HWY_RESTRICT from = token + k * kLanes;
        const VF u = LoadF(u_at + k * kLanes);
        const VF ddx = LoadF(from + kBackDdx * kBackWidth);
        du[k] = hn::MulAdd(LoadF(from + kBackDy * kBackWidth), d[k],
                           hn::Mul(ddx, LoadF(from + kBackDt * kBackWidth)));
        const VF x = hn::Mul(LoadF(from + kBackDdt * kBackWidth), Set(kLn2));
        ddt[k] = hn::Mul(hn::MulAdd(ddx, u, x),
                         LoadF(from + kBackSlope * kBackWidth));
        dbias[k] = hn::Add(dbias[k], ddt[k]);
        const VF y = hn::MulAdd(d[k], u, LoadF(from + kBackY * kBackWidth));
        dz[k] = hn::Mul(LoadF(from + kBackDgate * kBackWidth), y);
      }
      StreamLine(du, du_at);
      StreamLine(ddt, ddt_at);
      StreamLine(dz, dz_at);
      token += kBackRow;
      u_at += args_.u.stride;
      du_at += du_.view.stride;
      ddt_at += ddt_.view.stride;
      dz_at += dz_.view.stride;
    }
    for (int k = 0; k < kSlots; ++k) {
      StoreF(dbias[k], dbias_ + channel + k * kLanes);
    }
  }

  // du, ddt_raw, dz of one vector, and the sum over time of ddt_raw.
  HWY_INLINE void Finish(int64_t row, int64_t col, const float* token) {
    const int64_t left = args_.channels - col;
    const int64_t channel = col - g0_ * kScanGroup;
    const VF u = ReadVector(args_.u, row, col, left);
    const VF d = LoadF(s_.d + channel);
    const VF ddx = LoadF(token + kBackDdx * kBackWidth);
    const VF du = hn::MulAdd(LoadF(token + kBackDy * kBackWidth), d,
                             hn::Mul(ddx, LoadF(token + kBackDt * kBackWidth)));
    VF ddt = hn::Mul(LoadF(token + kBackDdt * kBackWidth), Set(kLn2));
    ddt = hn::MulAdd(ddx, u, ddt);
    ddt = hn::Mul(ddt, LoadF(token + kBackSlope * kBackWidth));
    const VF y = hn::MulAdd(d, u, LoadF(token + kBackY * kBackWidth));
    const VF dz = hn::Mul(LoadF(token + kBackDgate * kBackWidth), y);
    float* dbias = dbias_ + channel;
    StoreF(hn::Add(ddt, LoadF(dbias)), dbias);
    du_.Write(du, row, col, left);
    ddt_.Write(ddt, row, col, left);
    if (dz_.view.data != nullptr) dz_.Write(dz, row, col, left);
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
  const VectorWriter du_, ddt_, dz_;
  int64_t t0_ = 0, group_ = 0;           // This panel.
  int64_t next_t_ = 0, next_group_ = 0;  // The next panel.
  Pending pending_;
  // Rows to write in each of the two gaps of a block.
  const int64_t chunk_;
  // Whether FinishStreams will do.
  const bool streams_;
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
HWY_EXPORT(ReduceDbc);
HWY_EXPORT(ReduceParameters);

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
  // Threads' starts are not worth it for a few rows.
  const int64_t rows = args.batch * args.time;
  const int64_t rows_a_task = 256;
  ParallelFor((rows + rows_a_task - 1) / rows_a_task, [&](int64_t i) {
    HWY_DYNAMIC_DISPATCH(ReduceDbc)
    (args, grad, parts, i * rows_a_task, std::min(rows, (i + 1) * rows_a_task));
  });
  ParallelRanges(groups, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(ReduceParameters)(args, grad, sums, begin, end);
  });
}

}  // namespace carry
#endif  // HWY_ONCE
