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
#include "kernels/cpu/selective_scan_backward_ahead-inl.h"
#include "kernels/cpu/selective_scan_backward_rows-inl.h"
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
        panel_(BackPanel(args)),
        da_(sums.da + (b * groups_ + g0) * n_ * kScanGroup),
        dd_(sums.dd + (b * groups_ + g0) * kScanGroup),
        dbias_(sums.dbias + (b * groups_ + g0) * kScanGroup),
        db_(db),
        dc_(dc),
        s_(g1 - g0, n_),
        rows_(args, grad, s_, g0, dd_, dbias_),
        ahead_(args, grad.dout, rows_.du(), rows_.ddt(), rows_.dz(), row0_, g0,
               g1, s_.bc) {}

  void Run() {
    LoadParameters();
    for (int64_t i = ScanTiles(args_.time) - 1; i >= 0; --i) {
      Tile(i * kScanTile);
    }
    rows_.FinishAll();
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
    ahead_.StartTile(t0);
    std::fill_n(s_.sums, rows * n_ * 2 * kLanes, 0.0f);
    std::fill_n(s_.dydx, rows * kLanes, 0.0f);
    for (int64_t g = g0_; g < g1_;) {
      const int64_t end = PanelEnd(g, g1_, panel_);
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
    const int64_t row = row0_ + t0, col = g * kScanGroup;
    const int64_t width = std::min(args_.channels, g_end * kScanGroup) - col;
    ahead_.StartPanel(t0, g, g_end);
    int64_t t = 0;
    if (rows_.TakesPairs(width)) {
      t = args_.u.dtype == DType::kF32 ? PreparePairs<float>(row, rows, col)
                                       : PreparePairs<BFloat16>(row, rows, col);
    }
    for (; t < rows; ++t) {
      rows_.Prepare(t, row + t, col, width);
      ahead_.InRow(t);
    }
    rows_.FinishAll();
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
    if (rows_.HasLines()) {
      rows_.WriteLines(row, rows, col, width, g == g0_, g_end == g1_);
    }
  }

  // How many of the rows it has prepared, two at a time.
  template <class T>
  HWY_NOINLINE int64_t PreparePairs(int64_t row, int64_t rows, int64_t col) {
    int64_t t = 0;
    for (; t + 2 <= rows; t += 2) {
      rows_.PreparePair<T>(t, row + t, col);
      ahead_.InRow(t + 1);
    }
    return t;
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
    rows_.Add(row0_ + t0, rows, g * kScanGroup + i * kLanes, kSlots,
              s_.token + i * kLanes);
  }

  template <bool kReset, bool kFirst, int kBlock, int kSlots>
  HWY_INLINE void Block(const StateRows* v, int64_t n, int64_t rows,
                        int64_t i) {
    const int64_t states = n_;
    float* token = s_.token + i * kLanes;
    const float* bc = s_.bc + n;
    for (int k = 0; k < kSlots; ++k) {
      Prefetcher ahead0(s_.bc), ahead1(s_.bc);
      ahead_.InLoop(n / kBlock, i + k, v[k], n, kSlots, &ahead0, &ahead1);
      rows_.FinishSome();
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

  const SelectiveScanArgs& args_;
  const SelectiveScanBackwardArgs& grad_;
  const int64_t b_, g0_, g1_, n_, row0_, groups_;
  const int64_t panel_;  // Groups.
  float* const da_;
  float* const dd_;
  float* const dbias_;
  float* const db_;
  float* const dc_;
  BackwardScratch s_;
  BackwardRows rows_;
  BackwardAhead ahead_;
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
